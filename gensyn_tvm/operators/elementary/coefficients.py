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

#: erf(x) / x as a polynomial in x^2 - ERF_CENTRE for |x| <= 3.92. The first is one last place larger than the nearest: with
#: that the results for 0x1.81d5acp-13 and its negative are on the right side of a middle, and no other result changes.
ERF_CENTRE = 7.6875
ERF_RATIO = (
    float.fromhex("0x1.714a947278f73p-2"),
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

#: (sin(pi r) / r - pi) / r^2 as a polynomial in r^2 for |r| <= 1/2.
SIN_PI_SERIES = (
    float.fromhex("-0x1.4abbce625be53p+2"),
    float.fromhex("0x1.466bc6775aad6p+1"),
    float.fromhex("-0x1.32d2cce62ad89p-1"),
    float.fromhex("0x1.50783486ef09cp-4"),
    float.fromhex("-0x1.e3074ee3f8db0p-8"),
    float.fromhex("0x1.e8f3af4738c0bp-12"),
    float.fromhex("-0x1.6f86438612a52p-16"),
    float.fromhex("0x1.9ebfab65f40fbp-21"),
)

#: The same for |r| <= 1/4.
TAN_SIN_SERIES = (
    float.fromhex("-0x1.4abbce625be52p+2"),
    float.fromhex("0x1.466bc6775a45cp+1"),
    float.fromhex("-0x1.32d2cce4fc5f9p-1"),
    float.fromhex("0x1.507832025f19fp-4"),
    float.fromhex("-0x1.e30276074a18ap-8"),
    float.fromhex("0x1.e4a65925688e2p-12"),
)

#: (cos(pi r) - 1) / r^2 as a polynomial in r^2 for |r| <= 1/4.
TAN_COS_SERIES = (
    float.fromhex("-0x1.3bd3cc9be45dep+2"),
    float.fromhex("0x1.03c1f081b5ac0p+2"),
    float.fromhex("-0x1.55d3c7e3cb208p+0"),
    float.fromhex("0x1.e1f5068680601p-3"),
    float.fromhex("-0x1.a6d1eeeb6d56cp-6"),
    float.fromhex("0x1.f9ce1b877ec0ep-10"),
    float.fromhex("-0x1.b2f0b61f9b7a4p-14"),
)

#: (asin(s) / s - 1) / s^2 as a polynomial in s^2 for |s| <= 1/2.
ASIN_SERIES = (
    float.fromhex("0x1.5555555555556p-3"),
    float.fromhex("0x1.3333333332ecap-4"),
    float.fromhex("0x1.6db6db6e31f13p-5"),
    float.fromhex("0x1.f1c71c1db0623p-6"),
    float.fromhex("0x1.6e8bb1c8209a2p-6"),
    float.fromhex("0x1.1c4d35cf95421p-6"),
    float.fromhex("0x1.c9cf07674736ap-7"),
    float.fromhex("0x1.782651caa6547p-7"),
    float.fromhex("0x1.52420b04b37bep-7"),
    float.fromhex("0x1.65a9c4dfcf8b2p-8"),
    float.fromhex("0x1.1d189408314eep-6"),
    float.fromhex("-0x1.e6aaa8a0a04ccp-7"),
    float.fromhex("0x1.d72b2bc8155f8p-6"),
)

#: (2 atanh(s) / s - 2) / s^2 as a polynomial in s^2 for |s| <= 1/5.
ATANH_SERIES = (
    float.fromhex("0x1.5555555555555p-1"),
    float.fromhex("0x1.9999999999f64p-2"),
    float.fromhex("0x1.24924923d5fa6p-2"),
    float.fromhex("0x1.c71c72ea53b97p-3"),
    float.fromhex("0x1.745ca8e7112e0p-3"),
    float.fromhex("0x1.3b2a566312fbbp-3"),
    float.fromhex("0x1.0e820bb45c1ccp-3"),
    float.fromhex("0x1.16eb21047b4c1p-3"),
)

#: 1 / pi for the reduction of arguments below 2^44, 2^63, 2^82, 2^101, 2^120, 2^139: without the bits whose products with
#: the arguments are multiples of 2, in parts of 29 bits, 24 bits and a rounded rest.
INVERSE_PI = (
    (float.fromhex("0x1.45f306d000000p-2"), float.fromhex("0x1.9391040000000p-31"), float.fromhex("0x1.4a7f09d5f47d5p-55")),
    (float.fromhex("0x1.b727220000000p-24"), float.fromhex("0x1.529fc20000000p-53"), float.fromhex("0x1.d5f47d4d37703p-79")),
    (float.fromhex("0x1.220a94f000000p-40"), float.fromhex("0x1.c2757c0000000p-69"), float.fromhex("0x1.1f534ddc0db63p-93")),
    (float.fromhex("0x1.4fe13ab000000p-60"), float.fromhex("0x1.d1f5340000000p-89"), float.fromhex("0x1.bb81b6c52b328p-114")),
    (float.fromhex("0x1.d5f47d4000000p-79"), float.fromhex("0x1.a6ee060000000p-108"), float.fromhex("0x1.b6295993c4390p-133")),
    (float.fromhex("0x1.f534ddc000000p-97"), float.fromhex("0x1.b6c5200000000p-130"), float.fromhex("0x1.664f10e4107f9p-151")),
)

#: (e^r - 1 - r) / r^2 for |r| <= log(2) / 2, for binary64 results.
EXP_DOUBLE_TAIL = (
    float.fromhex("0x1.0000000000000p-1"),
    float.fromhex("0x1.5555555555555p-3"),
    float.fromhex("0x1.5555555555557p-5"),
    float.fromhex("0x1.1111111111111p-7"),
    float.fromhex("0x1.6c16c16c15a6cp-10"),
    float.fromhex("0x1.a01a01a0196aep-13"),
    float.fromhex("0x1.a01a01a9e8105p-16"),
    float.fromhex("0x1.71de3a5aa6edfp-19"),
    float.fromhex("0x1.27e4d41d6e4cfp-22"),
    float.fromhex("0x1.ae642c872f1b5p-26"),
    float.fromhex("0x1.1f7f2002ddb53p-29"),
    float.fromhex("0x1.61bfa22fdca3dp-33"),
)

#: ((2 atanh(s) / s - 2) / s^2 - 2/3) / s^2 as a polynomial in s^2 for |s| <= (sqrt(2) - 1) / (sqrt(2) + 1).
LOG_DOUBLE_SERIES = (
    float.fromhex("0x1.999999999999ap-2"),
    float.fromhex("0x1.2492492492491p-2"),
    float.fromhex("0x1.c71c71c71cfd7p-3"),
    float.fromhex("0x1.745d17451376fp-3"),
    float.fromhex("0x1.3b13b1bc64de3p-3"),
    float.fromhex("0x1.1110dfb241e74p-3"),
    float.fromhex("0x1.e1f7f8b3abadap-4"),
    float.fromhex("0x1.ac4ab12489da3p-4"),
    float.fromhex("0x1.b8d2ce6714f8bp-4"),
)

#: e^(x^2) erfc(x) as a polynomial in (x - ERFC_CENTRE) / (x + ERFC_CENTRE) for 0.5 <= x <= 10.07.
ERFC_CENTRE = 2.5
ERFC_SCALED = (
    float.fromhex("0x1.afbb3f3b7343bp-3"),
    float.fromhex("-0x1.7ca88dec217a7p-2"),
    float.fromhex("0x1.01c11a735cd9cp-2"),
    float.fromhex("-0x1.0011543716c64p-3"),
    float.fromhex("0x1.470ba1f67e05dp-5"),
    float.fromhex("-0x1.05bb2fe5d3c5cp-8"),
    float.fromhex("-0x1.5a5716cd09e26p-9"),
    float.fromhex("0x1.cb3b61ca6fd32p-11"),
    float.fromhex("0x1.def2c904ed3a3p-13"),
    float.fromhex("-0x1.0e466d2cedde7p-13"),
    float.fromhex("-0x1.1ebe2403f5625p-15"),
    float.fromhex("0x1.384e009344840p-16"),
    float.fromhex("0x1.fafa3482eaa1dp-18"),
    float.fromhex("-0x1.34a9381c34d42p-19"),
    float.fromhex("-0x1.e71339f3172a2p-20"),
    float.fromhex("0x1.57c1d52167f82p-24"),
    float.fromhex("0x1.9d8e4375aec5ap-22"),
    float.fromhex("0x1.4b2472c210b51p-24"),
    float.fromhex("-0x1.d6e82b9f93aeap-25"),
    float.fromhex("-0x1.96b1c1d770966p-26"),
    float.fromhex("0x1.742d05f958896p-31"),
)
