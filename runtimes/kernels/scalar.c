/* Scalar tier: plain C, one output at a time. The reference of the others, and what runs where no other can. */
#include "tier.h"

typedef struct {
    int8_t w[GROUP];
} weights4;

typedef const int8_t *inputs16;

typedef struct {
    int32_t a, z;
} scalar_grid;

#define VEC int32_t
#define LANES 1
#define WEIGHTS weights4
#define INPUTS inputs16
#define GRID scalar_grid
#define GRID_OF(grid) ((scalar_grid){(grid)->a, (grid)->z})
#define ZERO() 0
#define LOAD(p) (*(p))
#define STORE(p, v) (*(p) = (v))
#define ADD(a, b) ((a) + (b))
#define LOAD_WEIGHTS(p) load_weights(p)
#define STORE_WEIGHTS(p, x) memcpy(p, (x).w, GROUP)
#define LOAD_16(p) ((const int8_t *)(p))
#define LOAD_4(p) ((const int8_t *)(p))
#define DOT(sum, weights, x, lane, wide) dot(sum, weights, (x) + 4 * (lane))
#define WEIGHTS_OF(block, v, bits, group, grid) weights_of((block) + (v) * GROUP, bits, group, grid)
#ifndef TIER_IS_SMALL
#define TIER_IS_SMALL
#endif
#define TIER_SUMS 64
#define TIER_TILES(TILE) TILE(1, 1) TILE(2, 1)

#include <string.h>

static inline weights4 load_weights(const int8_t *p) {
    weights4 loaded;
    memcpy(loaded.w, p, GROUP);
    return loaded;
}

static inline int32_t dot(int32_t sum, weights4 weights, const int8_t *x) {
    for (int k = 0; k < GROUP; k++) sum += x[k] * weights.w[k];
    return sum;
}

static inline weights4 weights_of(const uint8_t *block, int bits, int group, scalar_grid grid) {
    int code[GROUP] = {0};
    weights4 found;
    for (int plane = bits == 8 ? 8 : 4, low = 0; low < bits; plane /= 2) {
        if (!(bits & plane)) continue;
        const int fields = 8 / plane, shift = plane * (group % fields);
        const uint8_t *atom = block + (low + group / fields) * ATOM;
        for (int k = 0; k < GROUP; k++) code[k] |= (atom[k] >> shift & ((1 << plane) - 1)) << low;
        low += plane;
    }
    for (int k = 0; k < GROUP; k++) found.w[k] = (int8_t)(grid.a * code[k] - grid.z);
    return found;
}

#include "loops.h"

static bool supported(void) { return true; }

const msq_tier msq_scalar = {
    "scalar", "nothing", supported, FLIP, 1, {2},
    copy, prepare, unpack, tile, NULL, NULL, fused, arrange, depthwise, requantize, combine, quantize, maximum,
};
