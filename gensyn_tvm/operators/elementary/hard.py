"""Inputs of the elementary functions that need a correction."""

from __future__ import annotations

#: Inputs that the binary64 result would round to the wrong side, and their results, as bit patterns. Odd and even functions
#: that calculate with the magnitude (sinh, sin, atan …) have it here.
HARD: dict[str, dict[int, int]] = {
    "exp": {},
    "expm1": {},
    "log": {
        0x3C413D3A: 0xC08E158F,
        0x41178FEB: 0x400FE5E7,
        0x4C5D65A5: 0x418F034B,
        0x65D890D3: 0x4254D1F9,
        0x6F31A8EC: 0x42845A89,
    },
    "log1p": {
        0x35400003: 0x353FFFFF,
        0x3710001B: 0x370FFFF3,
        0x3EFD81AD: 0x3ECDEEE1,
        0x41078FEB: 0x400FE5E7,
        0x65D890D3: 0x4254D1F9,
        0x6F31A8EC: 0x42845A89,
        0xB53FFFFD: 0xB5400001,
        0xB70FFFE5: 0xB710000D,
        0xBB0EC8C4: 0xBB0EF0A5,
    },
    "tanh": {},
    "sigmoid": {0xBA928601: 0x3EFFDB5F},
    "erf": {},
    "exp2": {0x3B429D37: 0x3F804385, 0xBCF3A937: 0x3F7AC6B1},
    "log2": {},
    "log10": {0x0EFEEE7A: 0xC1E99D23},
    "atan": {0x3D8D6B23: 0x3D8D31C3},
    "sinh": {0x3A1285FF: 0x3A1285FF},
    "cosh": {},
    "sin": {0x46199998: 0xBEB1FA5D, 0x55CAFB2A: 0xBF7E7A17},
    "cos": {0x5F18B878: 0x3F7F14BB, 0x6115CB11: 0x3F78142F, 0x7908CD73: 0x3F798BB5},
    "tan": {},
    "asin": {},
    "acos": {0x328885A3: 0x3FC90FDB, 0x39826222: 0x3FC907B5},
    "asinh": {0x4BDD65A5: 0x418F034B, 0x655890D3: 0x4254D1F9, 0x6EB1A8EC: 0x42845A89},
    "erfc": {0xB76C9F62: 0x3F800085},
    "rsqrt": {},
    "cbrt": {},
    "acosh": {0x655890D3: 0x4254D1F9, 0x6EB1A8EC: 0x42845A89},
    "atanh": {},
}
