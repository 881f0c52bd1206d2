"""What the layout pass reckons with: nanoseconds for each element on one core (AVX-512, measured); only proportions matter."""

from __future__ import annotations

#: One term of a product in a good register tile; a copy; one inside of
#: the product, a chunk of a panel at a time; a copy that transposes blocks, and one whose result stays in the
#: first-level cache; a copy that gathers single elements;
#: a result stored across the direction of its vectors; what it costs if tiles cross the ends of lines, for it is stored thrice.
FMA, COPY, PACKED_INSIDE, TRANSPOSE, TURN, SCATTERED_COPY, SCATTER, UNSTREAMED = 0.019, 0.10, 0.05, 0.22, 0.06, 0.80, 0.30, 2.0
#: How much slower a product is whose weights, read as scalars, come from beyond the second-level cache.
FAR_WEIGHTS = 3.0
