"""Checks of arguments. An error says what was given, what is allowed, and what to do.

A bad number is a ValueError, also where the argument is no number. An object of a wrong class is a
TypeError.
"""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any


def check_integer(name: str, value: Any, least: int, otherwise: str = "") -> None:
    """Raises ValueError unless `value` is an integer of at least `least`.

    Args:
        name: The name of the argument.
        value: What was given.
        least: The least integer that is allowed.
        otherwise: The end of the error, with other allowed values: ", or None".
    """
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or value < least:
        allowed = f"an integer of at least {least}{otherwise}"
        raise ValueError(f"{name} is {value!r}; it must be {allowed}")


def is_number(value: Any) -> bool:
    """Tells whether `value` is a finite real number."""
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        return is_real and math.isfinite(value)
    except OverflowError:  # an integer above the largest float
        return False


def weight(value: Any) -> float:
    """Returns a number, or the element of a tensor with one, as a float.

    Raises:
        TypeError: It is neither.
        ValueError: It is negative or not finite.
    """
    if not hasattr(value, "__float__") or getattr(value, "numel", lambda: 1)() != 1:
        raise wrong_type("the weight", value, "a number of samples or tokens")
    allowed = "it must be a finite number of at least 0"
    try:
        found = float(value)
    except OverflowError:
        raise ValueError(f"the weight is too large for a float; {allowed}") from None
    if not 0 <= found < math.inf:
        raise ValueError(f"the weight is {found}; {allowed}")
    return found


def check_policy(name: str, policy: Callable[..., Any]) -> None:
    """Raises TypeError unless a function can be called with a parameter's name, shape and dtype.

    Args:
        name: The name of the argument.
        policy: The function.
    """
    try:
        signature = inspect.signature(policy)
    except (TypeError, ValueError):  # of some functions in C
        return
    try:
        signature.bind("", (), None)
    except TypeError:
        given = getattr(policy, "__qualname__", type(policy).__qualname__)
        raise TypeError(
            f"{name} is {given}{signature}, which cannot be called with three arguments; it must "
            "be a function (name, shape, dtype)"
        ) from None


def check_state_of_hook(hook: str, state: Any, wanted: type, given: str) -> None:
    """Raises TypeError unless the state of a communication hook is of the wanted class.

    Args:
        hook: The name of the hook.
        state: What was registered with it.
        wanted: The class.
        given: Arguments of the class, for the example in the error.
    """
    if not isinstance(state, wanted):
        name = wanted.__name__
        example = f"register_comm_hook(hooks.{name}({given}), hooks.{hook})"
        raise wrong_type(f"the state of {hook}", state, f"a {name}: {example}")


def wrong_type(name: str, value: Any, wanted: str) -> TypeError:
    """Returns the error for an object of a wrong class.

    Args:
        name: The name of the argument.
        value: What was given.
        wanted: The allowed class, and how to get an object of it.
    """
    plain = value is None or isinstance(value, (bool, int, float, str))
    given = repr(value) if plain else f"of class {type(value).__qualname__}"
    return TypeError(f"{name} is {given}; it must be {wanted}")
