/* NEON dot product tier: sdot, of ARMv8.2 processors (Cortex-A55, A76 and later). */
#include "neon_dot.h"

#include "loops.h"

/* Sums, inputs and weights take all 32 registers. */
enum { HELD_ROWS = 6, TILE_ROWS = 24, AT_ONCE = 4 };

INLINE void group_step(const int rows, const int lane, const int8x16_t *x, const int8_t *weights, int32x4_t *sums) {
    UNROLL for (int v = 0; v < VECS; v += 2) {
        const int8x16_t w[2] = {LOAD_WEIGHTS(weights + 16 * v), LOAD_WEIGHTS(weights + 16 * v + 16)};
        UNROLL for (int i = 0; i < 2 * rows; i++) {
            int32x4_t *const sum = sums + i / 2 * VECS + v + i % 2;
            *sum = DOT(*sum, w[i % 2], x[i / 2], lane, false);
        }
        UNROLL for (int i = 0; i < 2 * rows; i++) SETTLE(sums[i / 2 * VECS + v + i % 2]);
    }
}

INLINE void step(const int rows, const summing how, const uint8_t *const *x, size_t at, const int8_t *weights,
                 int32x4_t *sums) {
    (void)how;
    int8x16_t now[HELD_ROWS];
    UNROLL for (int r = 0; r < rows; r++) now[r] = LOAD_16(x[r] + at);
    UNROLL for (int lane = 0; lane < 4; lane++) group_step(rows, lane, now, weights + lane * ATOM, sums);
}

INLINE void single_step(const int rows, const summing how, const uint8_t *const *x, size_t at, const int8_t *weights,
                        int32x4_t *sums) {
    (void)how;
    int8x16_t now[HELD_ROWS];
    UNROLL for (int r = 0; r < rows; r++) now[r] = LOAD_4(x[r] + at);
    group_step(rows, 0, now, weights, sums);
}

#include "neon_tile.h"

static void tile(const msq_grid *grid, int32_t rows, int32_t panels, const uint8_t *const *x, const msq_run *runs,
                 int32_t run_count, const int8_t *weights, bool more, int32_t *sums) {
    (void)grid, (void)panels;
    tile_by(SINGLE, rows, x, runs, run_count, weights, more, sums);
}

static bool supported(void) { return getauxval(AT_HWCAP) & (1ul << 20); /* ASIMDDP */ }

const msq_tier msq_dotprod = {
    "dotprod", "the dot product instructions of ARMv8.2", supported, FLIP, 1, {TILE_ROWS},
    copy, prepare, unpack, tile, NULL, NULL, fused, arrange, depthwise, requantize, combine, quantize, maximum,
};
