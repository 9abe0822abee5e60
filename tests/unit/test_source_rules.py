"""Every source file and page keeps the rules, and the rules find what breaks them."""

import source_rules
from source_rules import ROOT

LAYERS = source_rules.layers((ROOT / "csrc" / "CMakeLists.txt").read_text())


def test_sources_are_found() -> None:
    names = {str(path.relative_to(ROOT)) for path in source_rules.sources()}
    assert {"tests/check.h", "tools/source_rules.py", "csrc/base/error.h"} <= names


def test_files_and_functions_are_small() -> None:
    broken = [
        what
        for path in source_rules.sources()
        for what in source_rules.broken(str(path.relative_to(ROOT)), path.read_text())
    ]
    assert broken == []


def test_no_layer_includes_what_it_does_not_link() -> None:
    csrc = ROOT / "csrc"
    forbidden = [
        what
        for path in source_rules.sources()
        if path.is_relative_to(csrc)
        for what in source_rules.forbidden_includes(
            str(path.relative_to(csrc)), path.read_text(), LAYERS
        )
    ]
    assert forbidden == []


def test_plan_never_sees_transport() -> None:
    assert "transport" not in LAYERS["plan"]
    assert LAYERS["base"] == {"base"}
    assert LAYERS["comm"] >= {"base", "plan", "transport", "engine"}
    assert LAYERS["plan/proof"] == {"base", "plan", "plan/proof"}


def test_a_wrong_include_is_found() -> None:
    for include in ('"transport/channel.h"', '"engine/work.h"', "<torch/torch.h>", "<Python.h>"):
        text = f"#include <vector>\n#include {include}\n"
        assert len(source_rules.forbidden_includes("plan/ring.cpp", text, LAYERS)) == 1
    assert source_rules.forbidden_includes("plan/ring.cpp", '#include "base/span.h"', LAYERS) == []
    assert source_rules.forbidden_includes("plan/ring.cpp", "#include <memory>", LAYERS) == []
    assert source_rules.forbidden_includes("torch/work.cpp", "#include <Python.h>", LAYERS) == []


def test_a_layer_inside_another_is_a_layer_of_its_own() -> None:
    proof = '#include "plan/proof/verify.h"'
    for name in ("plan/build.cpp", "plan/builders/ring.cpp", "comm/planner.cpp"):
        layer = name.split("/")[0]
        assert source_rules.forbidden_includes(name, proof, LAYERS) == [
            f"{name} includes plan/proof/verify.h, but {layer} does not link plan/proof"
        ]
    simulate = '#include "plan/simulate/simulate.h"'
    assert len(source_rules.forbidden_includes("plan/proof/verify.cpp", simulate, LAYERS)) == 1
    plan = '#include "plan/schedule.h"\n#include "plan/builders/ring.h"'
    for text in (proof, plan):
        assert source_rules.forbidden_includes("plan/proof/verify.cpp", text, LAYERS) == []


def cpp_function(lines: int) -> str:
    return (
        "int long_one(int a,\n             int b) {\n"
        + "  a += b;\n" * (lines - 4)
        + "  return a;\n}\n"
    )


def test_a_long_cpp_function_is_found_wherever_it_stands() -> None:
    long_one = cpp_function(70)
    for before, after in [
        ("", ""),
        ("namespace fastgpu {\nnamespace {\n", "}\n}\n"),
        ("template <typename T>\nstruct Thing : Base {\n  int x_{0};\n public:\n", "};\n"),
        ("template <class T>\nT other(std::vector<T> a) { return a[0]; }\n", ""),
        ("// { a comment\nconst char* text = \"{\"; char c = '{';\nconstexpr int n = 1'000;\n", ""),
        ("#define OPEN {\nenum class E : int { kA, kB };\n", ""),
    ]:
        assert source_rules.broken("a.cpp", before + long_one + after) == [
            "a.cpp long_one: 70 lines"
        ]
        assert source_rules.broken("a.cpp", before + cpp_function(69) + after) == []


def test_a_type_may_be_longer_than_a_function() -> None:
    methods = "".join(f"  int f{i}() const {{ return {i}; }}\n" for i in range(100))
    assert (
        source_rules.broken("a.h", f"class A final : public B {{\n public:\n{methods}}};\n") == []
    )


def test_a_long_or_wide_python_file_is_found() -> None:
    body = "    x = 1\n" * 69
    assert source_rules.broken("a.py", f"def f():\n{body}") == ["a.py f: 70 lines"]
    assert source_rules.broken("a.py", f'def f():\n    """Doc."""\n{body[10:]}') == []
    assert source_rules.broken("a.py", "def f(a, b, c, d, e, g, *, h): ...\n") == [
        "a.py f: 7 parameters"
    ]
    assert source_rules.broken("a.py", "x = 1\n" * 400) == ["a.py: 400 lines"]
    assert source_rules.broken("a.py", "#" * 101) == ["a.py:1: 101 columns"]


def test_pages_are_wrapped() -> None:
    wide = [
        line
        for page in source_rules.pages()
        for line in source_rules.wide_prose(str(page.relative_to(ROOT)), page.read_text())
    ]
    assert wide == []


def test_wide_prose_is_found() -> None:
    wide = "word " * 25
    for line in (wide, f"- {wide}", f"  {wide}", f"## {wide}", f"[{wide}](page.md)"):
        assert source_rules.wide_prose("a.md", f"text\n{line}") == [f"a.md:2: {len(line)} columns"]
    assert source_rules.wide_prose("a.md", f"```\ncode\n```\n{wide}") != []


def test_tables_code_and_unbreakable_lines_may_be_wide() -> None:
    wide = "word " * 25
    link = f"[page]({'long/' * 25}page.md)"
    for text in (f"| {wide} |", f"    {wide}", f"```sh\n{wide}\n```", link, f"- {link}", "x" * 100):
        assert source_rules.wide_prose("a.md", text) == []
