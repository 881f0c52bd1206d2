"""Binary64 coefficients of the elementary functions, printed by scripts/fit_elementary.py, lowest degree first."""

from __future__ import annotations

#: (e^r - 1 - r) / r^2 for |r| <= log(2) / 2.
EXP_TAIL = (
    float.fromhex("0x1.0000000000001p-1"),
    float.fromhex("0x1.5555555555556p-3"),
    float.fromhex("0x1.5555555553d68p-5"),
    float.fromhex("0x1.11111111109b5p-7"),
    float.fromhex("0x1.6c16c17889ef9p-10"),
    float.fromhex("0x1.a01a01a7c2f03p-13"),
    float.fromhex("0x1.a019b914985a9p-16"),
    float.fromhex("0x1.71de0db2f585ep-19"),
    float.fromhex("0x1.28917c8be7ad6p-22"),
    float.fromhex("0x1.af389ed28db09p-26"),
)

#: e^r = (p + q) / (p - q) for the same r: p as a polynomial in r^2, and q / r.
EXP_EVEN = (
    float.fromhex("0x1.0000000000000p+0"),
    float.fromhex("0x1.c719eb7f5dc97p-4"),
    float.fromhex("0x1.0400193147defp-10"),
)
EXP_ODD = (
    float.fromhex("0x1.0000000000000p-1"),
    float.fromhex("0x1.c71258a821d33p-7"),
    float.fromhex("0x1.153b9bd01146bp-15"),
)

#: (2 atanh(s) / s - 2) / s^2 as a polynomial in s^2 for |s| <= (sqrt(2) - 1) / (sqrt(2) + 1).
LOG_SERIES = (
    float.fromhex("0x1.5555555555558p-1"),
    float.fromhex("0x1.99999999952e2p-2"),
    float.fromhex("0x1.2492492df148dp-2"),
    float.fromhex("0x1.c71c62e5800a1p-3"),
    float.fromhex("0x1.7462b4ab2ef6bp-3"),
    float.fromhex("0x1.39fe606542ddep-3"),
    float.fromhex("0x1.2b584aae78a57p-3"),
)

#: (2^r - 1) / r for |r| <= 1/2.
EXP2_TAIL = (
    float.fromhex("0x1.62e42fefa39efp-1"),
    float.fromhex("0x1.ebfbdff82c598p-3"),
    float.fromhex("0x1.c6b08d704a0c2p-5"),
    float.fromhex("0x1.3b2ab6fba1ddap-7"),
    float.fromhex("0x1.5d87fe78a5276p-10"),
    float.fromhex("0x1.430913096fd9fp-13"),
    float.fromhex("0x1.ffcbfc670dcd4p-17"),
    float.fromhex("0x1.62bfd47773353p-20"),
    float.fromhex("0x1.b524fae627834p-24"),
    float.fromhex("0x1.e6063f7217bc6p-28"),
    float.fromhex("0x1.e9d3fe3952179p-32"),
)

#: (atan(t) / t - 1) / t^2 as a polynomial in t^2 for |t| <= sqrt(2) - 1.
ATAN_SERIES = (
    float.fromhex("-0x1.5555555555555p-2"),
    float.fromhex("0x1.999999999934cp-3"),
    float.fromhex("-0x1.2492492436201p-3"),
    float.fromhex("0x1.c71c71853d7c8p-4"),
    float.fromhex("-0x1.745d0b28a7649p-4"),
    float.fromhex("0x1.3b12630643e8ap-4"),
    float.fromhex("-0x1.10fa77b104ae8p-4"),
    float.fromhex("0x1.dfe6497394f40p-5"),
    float.fromhex("-0x1.a0999c2994d42p-5"),
    float.fromhex("0x1.4162bf84bf0bfp-5"),
    float.fromhex("-0x1.3a31b0297d745p-6"),
)

#: erf(x) / x as a polynomial in x^2 - ERF_CENTRE for |x| <= 3.92.
ERF_CENTRE = 7.6875
ERF_RATIO = (
    float.fromhex("0x1.714a947278f72p-2"),
    float.fromhex("-0x1.7fc077d0f9d7dp-6"),
    float.fromhex("0x1.294ee9bf93a1cp-9"),
    float.fromhex("-0x1.f7e50687dc829p-13"),
    float.fromhex("0x1.b34e94ebf146fp-16"),
    float.fromhex("-0x1.72105882d3ad6p-19"),
    float.fromhex("0x1.2ed49991094a0p-22"),
    float.fromhex("-0x1.d68dd7da08c86p-26"),
    float.fromhex("0x1.585eb93b965a6p-29"),
    float.fromhex("-0x1.d8febb46a6aafp-33"),
    float.fromhex("0x1.3078eaea6c961p-36"),
    float.fromhex("-0x1.6f99d43cc29acp-40"),
    float.fromhex("0x1.a0d183226fafbp-44"),
    float.fromhex("-0x1.bcc1130388ac0p-48"),
    float.fromhex("0x1.bf9383926e4d2p-52"),
    float.fromhex("-0x1.a9c8ea4746d05p-56"),
    float.fromhex("0x1.7fc57cc6f370ep-60"),
    float.fromhex("-0x1.487fa07d846f6p-64"),
    float.fromhex("0x1.0bb9a495743aap-68"),
    float.fromhex("-0x1.9fdc2df7ebe84p-73"),
    float.fromhex("0x1.332cf8cc04efcp-77"),
    float.fromhex("-0x1.b4d765c0120bbp-82"),
    float.fromhex("0x1.33eb83278152fp-86"),
    float.fromhex("-0x1.9064b82175a45p-91"),
    float.fromhex("0x1.950f96396d4c2p-96"),
    float.fromhex("-0x1.f802d478066ccp-101"),
    float.fromhex("0x1.1bff6b2f68fcap-104"),
    float.fromhex("-0x1.3787c7ae946acp-109"),
)
