/* The tile of NEON tiers, over what they define before they include this file, after loops.h:
 *
 *   HELD_ROWS, TILE_ROWS       rows whose sums are in registers at once, and of a whole tile, which is done by so many
 *   AT_ONCE                    groups of a step
 *   step(rows, how, x, at, weights, sums)    add the products of so many groups, from byte `at` of the rows on
 *   single_step(…)                           the same of one group
 */
INLINE void held_tile(const int rows, const summing how, const uint8_t *const *x, const msq_run *runs,
                      int32_t run_count, const int8_t *weights, bool more, int32_t *out) {
    int32x4_t sums[HELD_ROWS * VECS];
    UNROLL for (int i = 0; i < rows * VECS; i++) {
        sums[i] = more ? LOAD(out + i * LANES) : ZERO();
        if (how == NEGATED) sums[i] = vnegq_s32(sums[i]);
    }
    for (int32_t run = 0; run < run_count; run++) {
        const uint8_t *row[HELD_ROWS];
        UNROLL for (int r = 0; r < rows; r++) row[r] = x[r] + runs[run].offset;
        size_t at = 0;
        for (int32_t left = runs[run].groups / AT_ONCE; left != 0; left--, weights += AT_ONCE * ATOM) {
            SETTLE_POINTER(weights);
            step(rows, how, row, at, weights, sums);
            at += AT_ONCE * GROUP;
        }
        for (int32_t left = runs[run].groups % AT_ONCE; left != 0; left--, weights += ATOM) {
            single_step(rows, how, row, at, weights, sums);
            at += GROUP;
        }
    }
    UNROLL for (int i = 0; i < rows * VECS; i++) STORE(out + i * LANES, how == NEGATED ? vnegq_s32(sums[i]) : sums[i]);
}

INLINE void tile_by(const summing how, int32_t rows, const uint8_t *const *x, const msq_run *runs, int32_t run_count,
                    const int8_t *weights, bool more, int32_t *sums) {
#define ROWS(r) \
    case r: held_tile(r < HELD_ROWS ? r : HELD_ROWS, how, x, runs, run_count, weights, more, sums); break;
    for (; rows > 0; rows -= HELD_ROWS, x += HELD_ROWS, sums += HELD_ROWS * PANEL) {
        switch (rows < HELD_ROWS ? rows : HELD_ROWS) {
            ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6)
            default: __builtin_unreachable();
        }
    }
#undef ROWS
}
