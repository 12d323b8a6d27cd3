/* What the NEON tiers share: registers of four outputs, inputs sixteen at a time. They define the product of fours. */
#include <arm_neon.h>
#include <string.h>
#include <sys/auxv.h>

#include "tier.h"

typedef struct {
    uint8x16_t twice, zero; /* w = code + (code & twice) − zero */
} grid128;

#define VEC int32x4_t
#define LANES 4
#define WEIGHTS int8x16_t
#define INPUTS int8x16_t
#define GRID grid128
#define GRID_OF(grid) grid_of(grid)
#define ZERO() vdupq_n_s32(0)
#define LOAD(p) vld1q_s32(p)
#define STORE(p, v) vst1q_s32(p, v)
#define ADD(a, b) vaddq_s32(a, b)
#define LOAD_WEIGHTS(p) vld1q_s8(p)
#define STORE_WEIGHTS(p, w) vst1q_s8(p, w)
#define LOAD_16(p) vld1q_s8((const int8_t *)(p))
#define LOAD_4(p) four_of(p)
#define WEIGHTS_OF(block, v, bits, group, grid) weights_of((block) + 16 * (v), bits, group, grid)
#define TIER_SUMS 24
#define TIER_TILES(TILE) TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1)

static inline __attribute__((always_inline)) int8x16_t four_of(const uint8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

static inline grid128 grid_of(const msq_grid *grid) {
    return (grid128){vdupq_n_u8(grid->a == 2 ? 0xff : 0), vdupq_n_u8((uint8_t)grid->z)};
}

/* Bits shift … shift + plane − 1 of every byte of an atom, brought to bit `low`. */
static inline __attribute__((always_inline)) uint8x16_t plane_of(const uint8_t *atom, const int plane, const int shift,
                                                                 const int low) {
    uint8x16_t packed = vld1q_u8(atom);
    if (shift != low) packed = vshlq_u8(packed, vdupq_n_s8((int8_t)(low - shift)));
    if (plane == 8) return packed;
    return vandq_u8(packed, vdupq_n_u8((uint8_t)(((1 << plane) - 1) << low)));
}

static inline __attribute__((always_inline)) int8x16_t weights_of(const uint8_t *block, const int bits, const int group,
                                                                  grid128 grid) {
    const msq_planes planes = msq_planes_of(bits);
    const int first = planes.first, second = planes.second, third = planes.third;
    uint8x16_t code = plane_of(block + group * first / 8 * ATOM, first, group * first % 8, 0);
    if (second)
        code = vorrq_u8(code, plane_of(block + (first + group * second / 8) * ATOM, second, group * second % 8, first));
    if (third) code = vorrq_u8(code, plane_of(block + (first + second) * ATOM, third, group, first + second));
    return vreinterpretq_s8_u8(vsubq_u8(vaddq_u8(code, vandq_u8(code, grid.twice)), grid.zero));
}
