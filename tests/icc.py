"""Colour profiles made byte by byte, so that tests know exactly what they do (ICC.1:2001-04)."""

import itertools
import struct

D50 = (0.9642, 1.0, 0.8249)
# Linear sRGB to XYZ, adapted to D50 (Bradford), a column for each primary.
SRGB_PRIMARIES = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))


def _s15(values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(values):
    return b"XYZ \0\0\0\0" + _s15(values)


def _profile(device, space, connection, tags):
    """A version 2 profile of these tags."""
    offset = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    size = offset + len(body)
    head = struct.pack(">I4sI4s4s4s12s4s", size, b"none", 0x02400000, device, space, connection, b"\0" * 12, b"acsp")
    head += b"\0" * 28 + _s15(D50)
    return head.ljust(128, b"\0") + table + body


def rgb_profile(gamma):
    """The primaries of sRGB with a plain power for its curve."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    tags = {b"wtpt": _xyz(D50)}
    for letter, primary in zip((b"r", b"g", b"b"), SRGB_PRIMARIES, strict=True):
        tags |= {letter + b"XYZ": _xyz(primary), letter + b"TRC": curve}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def grey_profile(gamma):
    """Grey with a plain power for its curve."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"wtpt": _xyz(D50), b"kTRC": curve})


def cmyk_profile():
    """Ink that darkens evenly: lightness falls with the strongest of the four, and there is no hue at all."""
    ramp = bytes(range(256))
    corners = b"".join(bytes((round(255 * (1 - max(inks))), 128, 128)) for inks in itertools.product((0, 1), repeat=4))
    identity = _s15((1, 0, 0, 0, 1, 0, 0, 0, 1))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + ramp * 4 + corners + ramp * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"wtpt": _xyz(D50), b"A2B0": lut})
