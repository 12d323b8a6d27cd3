/* NEON tier, of every aarch64 processor: products of bytes in 16 bits, summed by pairs. */
#include "neon.h"

#define DOT(sum, weights, x, lane, wide) dot(sum, weights, four_in(x, lane), wide)

/* A lane must be a literal; the compiler keeps one of the four. */
static inline __attribute__((always_inline)) int8x16_t four_in(int8x16_t x, const int lane) {
    const int32x4_t fours = vreinterpretq_s32_s8(x);
    switch (lane) {
        case 0: return vreinterpretq_s8_s32(vdupq_laneq_s32(fours, 0));
        case 1: return vreinterpretq_s8_s32(vdupq_laneq_s32(fours, 1));
        case 2: return vreinterpretq_s8_s32(vdupq_laneq_s32(fours, 2));
        default: return vreinterpretq_s8_s32(vdupq_laneq_s32(fours, 3));
    }
}

static inline __attribute__((always_inline)) int32x4_t dot(int32x4_t sum, int8x16_t weights, int8x16_t x,
                                                           const bool wide) {
    const int16x8_t low = vmull_s8(vget_low_s8(weights), vget_low_s8(x)), high = vmull_high_s8(weights, x);
    /* Two products of −128 · −128 are one too many for 16 bits. */
    if (wide) return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
    return vpadalq_s16(sum, vpaddq_s16(low, high));
}

#include "loops.h"

enum { HELD_ROWS = 4, TILE_ROWS = 24, AT_ONCE = 2 };

INLINE int8x16_t loaded(const summing how, const int8_t *weights) {
    return how == NEGATED ? vnegq_s8(LOAD_WEIGHTS(weights)) : LOAD_WEIGHTS(weights);
}

/* A sum with the products of two groups. */
INLINE int32x4_t paired(int32x4_t sum, int8x16_t one, int8x16_t first, int8x16_t two, int8x16_t second,
                        const bool wide) {
    if (wide) return dot(dot(sum, one, first, true), two, second, true);
    int16x8_t low = vmull_s8(vget_low_s8(one), vget_low_s8(first)), high = vmull_high_s8(one, first);
    low = vmlal_s8(low, vget_low_s8(two), vget_low_s8(second));
    high = vmlal_high_s8(high, two, second);
    return vpadalq_s16(sum, vpaddq_s16(low, high));
}

INLINE void single_step(const int rows, const summing how, const uint8_t *const *x, size_t at, const int8_t *weights,
                        int32x4_t *sums) {
    int8x16_t now[HELD_ROWS];
    UNROLL for (int r = 0; r < rows; r++) now[r] = LOAD_4(x[r] + at);
    UNROLL for (int v = 0; v < VECS; v++) {
        const int8x16_t w = loaded(how, weights + 16 * v);
        UNROLL for (int r = 0; r < rows; r++) sums[r * VECS + v] = dot(sums[r * VECS + v], w, now[r], how == SINGLE);
    }
}

INLINE void step(const int rows, const summing how, const uint8_t *const *x, size_t at, const int8_t *weights,
                 int32x4_t *sums) {
    int8x16_t first[HELD_ROWS], second[HELD_ROWS];
    UNROLL for (int r = 0; r < rows; r++) {
        const int32x2_t both = vreinterpret_s32_s8(vld1_s8((const int8_t *)x[r] + at));
        first[r] = vreinterpretq_s8_s32(vdupq_lane_s32(both, 0));
        second[r] = vreinterpretq_s8_s32(vdupq_lane_s32(both, 1));
        /* Else a compiler sees that both halves are equal, and moves those of the weights. */
        SETTLE(first[r]);
        SETTLE(second[r]);
    }
    UNROLL for (int v = 0; v < VECS; v += 2) {
        int8x16_t one[2], two[2];
        UNROLL for (int i = 0; i < 2; i++) {
            one[i] = loaded(how, weights + 16 * (v + i));
            two[i] = loaded(how, weights + ATOM + 16 * (v + i));
        }
        UNROLL for (int r = 0; r < rows; r++) {
            int32x4_t *const sum = sums + r * VECS + v;
            UNROLL for (int i = 0; i < 2; i++)
                sum[i] = paired(sum[i], one[i], first[r], two[i], second[r], how == SINGLE);
            /* Row by row: the next one's inputs are had when this one's sums are. */
            UNROLL for (int i = 0; i < 2; i++) SETTLE(sum[i]);
            SETTLE(first[(r + 1) % rows]);
        }
    }
}

#include "neon_tile.h"

static void tile(const msq_grid *grid, int32_t rows, int32_t panels, const uint8_t *const *x, const msq_run *runs,
                 int32_t run_count, const int8_t *weights, bool more, int32_t *sums) {
    (void)panels;
    if (grid->z < 64)
        tile_by(PAIRED, rows, x, runs, run_count, weights, more, sums);
    else if (grid->z == 64)
        tile_by(NEGATED, rows, x, runs, run_count, weights, more, sums);
    else
        tile_by(SINGLE, rows, x, runs, run_count, weights, more, sums);
}

static bool supported(void) { return true; }

const msq_tier msq_neon = {
    "neon", "NEON", supported, FLIP, 1, {TILE_ROWS},
    copy, prepare, unpack, tile, NULL, NULL, fused, arrange, depthwise, requantize, combine, quantize, maximum,
};
