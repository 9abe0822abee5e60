"""The link rate below which a codec pays."""

from __future__ import annotations

BITS = {"none": 32, "int8": 8.25, "int4": 4.5}  # by element


def break_even(codec: str, world: int) -> float:
    """Returns the link rate below which a codec pays, by this processor's speed, in bytes/s.

    At this rate the link sends the saved bytes in the time of encoding with error feedback,
    decoding and adding. The overlap of codec and link is ignored.
    """
    from fastgpu_comm import native

    _, encode_us, decode_us, add_us = native.codec_costs(codec)
    share = (world - 1) / world
    saved = 2 * share * (1 - BITS[codec] / 32)
    return saved / (encode_us + decode_us + share * add_us) * 1e6
