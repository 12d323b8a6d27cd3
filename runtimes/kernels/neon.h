/* What the NEON tiers share: registers of four outputs, inputs sixteen at a time, depthwise layers and requantization.
 * They define the product of fours. */
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
#define TIER_HAS_TILE
#define TIER_HAS_DEPTHWISE
#define TIER_HAS_REQUANTIZE

/* A register's value is made here, and what is loaded or settled afterwards is so after it. Left to themselves,
 * compilers do so much at once that the registers do not suffice. */
#define SETTLE(value) __asm__ volatile("" : "+w"(value)::"memory")
#define SETTLE_POINTER(value) __asm__("" : "+r"(value))

static inline __attribute__((always_inline)) int8x16_t four_of(const uint8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

static inline grid128 grid_of(const msq_grid *grid) {
    return (grid128){vdupq_n_u8(grid->a == 2 ? 0xff : 0), vdupq_n_u8((uint8_t)grid->z)};
}

/* An atom's bytes from bit `shift` on. */
static inline __attribute__((always_inline)) uint8x16_t field_of(const uint8_t *atom, const int shift) {
    const uint8x16_t packed = vld1q_u8(atom);
    return shift ? vshlq_u8(packed, vdupq_n_s8((int8_t)-shift)) : packed;
}

/* The low `at` bits of a field, and above them another. The number must be a literal. */
static inline __attribute__((always_inline)) uint8x16_t joined(uint8x16_t low, uint8x16_t high, const int at) {
    switch (at) {
        case 2: return vsliq_n_u8(low, high, 2);
        case 4: return vsliq_n_u8(low, high, 4);
        default: return vsliq_n_u8(low, high, 6);
    }
}

static inline __attribute__((always_inline)) int8x16_t weights_of(const uint8_t *block, const int bits, const int group,
                                                                  grid128 grid) {
    const msq_planes planes = msq_planes_of(bits);
    const int first = planes.first, second = planes.second, third = planes.third;
    const int top = third ? third : second ? second : first;
    uint8x16_t code = field_of(block + group * first / 8 * ATOM, group * first % 8);
    if (second) code = joined(code, field_of(block + (first + group * second / 8) * ATOM, group * second % 8), first);
    if (third) code = joined(code, field_of(block + (first + second) * ATOM, group), first + second);
    /* Other groups' fields are above, unless the top field ends its byte. */
    if (group * top % 8 + top < 8) code = vandq_u8(code, vdupq_n_u8((uint8_t)((1 << bits) - 1)));
    return vreinterpretq_s8_u8(vsubq_u8(vaddq_u8(code, vandq_u8(code, grid.twice)), grid.zero));
}

/* How a tile sums products before they are in 32 bits. */
typedef enum {
    PAIRED,  /* four in 16 bits: |w| < 64 */
    NEGATED, /* four of −w, which fit where w ≥ −64: x is at most 127 */
    SINGLE   /* none */
} summing;

/* Every window is slid by the code below. */
static inline bool is_held(const msq_window *w) {
    (void)w;
    return true;
}

/* Products of a few taps of 16 channels, `apart` bytes from tap to tap, summed in 16 bits before they are in 32. */
static inline __attribute__((always_inline)) void add_taps(const int taps, const uint8_t *x, ptrdiff_t apart,
                                                           const int8_t *weights, ptrdiff_t step, int32x4_t *sums) {
    int16x8_t low = vdupq_n_s16(0), high = low;
    for (int i = 0; i < taps; i++) {
        const int8x16_t in = LOAD_16(x + i * apart), by = vld1q_s8(weights + i * step);
        low = i ? vmlal_s8(low, vget_low_s8(in), vget_low_s8(by)) : vmull_s8(vget_low_s8(in), vget_low_s8(by));
        high = i ? vmlal_high_s8(high, in, by) : vmull_high_s8(in, by);
    }
    sums[0] = vaddw_s16(sums[0], vget_low_s16(low));
    sums[1] = vaddw_high_s16(sums[1], low);
    sums[2] = vaddw_s16(sums[2], vget_low_s16(high));
    sums[3] = vaddw_high_s16(sums[3], high);
}

static inline __attribute__((always_inline)) void slide_over(const int height, const int width, const bool wide,
                                                             const msq_window *w, int32_t columns, const uint8_t *x,
                                                             const int8_t *restrict weights, int32_t *restrict sums) {
    const ptrdiff_t channels = w->channels, apart = w->dilation * w->pixel, next = w->stride * w->pixel, down = w->down;
    /* Three products of |w| ≤ 64 fit 16 bits. */
    const int together = wide ? 1 : 3;
    for (ptrdiff_t c = 0; c < channels; c += 16) {
        for (int32_t column = 0; column < columns; column++) {
            int32x4_t sum[4] = {ZERO(), ZERO(), ZERO(), ZERO()};
            for (int up = 0; up < height; up++) {
                const uint8_t *in = x + c + column * next + up * down;
                const int8_t *by = weights + c + up * width * channels;
                int left = width;
                for (; left >= together; left -= together, in += together * apart, by += together * channels)
                    add_taps(together, in, apart, by, channels, sum);
                for (; left > 0; left--, in += apart, by += channels) add_taps(1, in, apart, by, channels, sum);
            }
            for (int i = 0; i < 4; i++) STORE(sums + column * channels + c + i * LANES, sum[i]);
        }
    }
}

static void held_depthwise(const msq_grid *grid, const msq_window *w, int32_t columns, const uint8_t *x,
                           const int8_t *weights, int32_t *sums) {
    if (msq_is_wide(grid))
        slide_over(w->height, w->width, true, w, columns, x, weights, sums);
    else if (w->height == 3 && w->width == 3)
        slide_over(3, 3, false, w, columns, x, weights, sums);
    else
        slide_over(w->height, w->width, false, w, columns, x, weights, sums);
}

/* What four codes, not yet whole, and four of a residual are together. */
static inline __attribute__((always_inline)) float32x4_t added(float32x4_t value, const int8_t *values,
                                                               const msq_epilogue *e) {
    const float32x4_t code = vmaxq_f32(vminq_f32(value, vdupq_n_f32(e->high)), vdupq_n_f32(e->low));
    const int32x4_t other = {values[0], values[1], values[2], values[3]};
    const float32x4_t centred = vcvtq_f32_s32(vsubq_s32(other, vdupq_n_s32(e->residual_zero)));
    return vaddq_f32(vrndnq_f32(vmulq_n_f32(vrndnq_f32(code), e->ratio)),
                     vrndnq_f32(vmulq_n_f32(centred, e->residual_ratio)));
}

/* 16 outputs of whole values: saturated, they are clamped as if they were not. */
static inline __attribute__((always_inline)) int8x16_t codes_of(const float32x4_t *value, int16x8_t zero, int8x16_t low,
                                                                int8x16_t high) {
    int16x8_t half[2];
    for (int i = 0; i < 2; i++) {
        const int16x4_t first = vqmovn_s32(vcvtnq_s32_f32(value[2 * i]));
        half[i] = vqaddq_s16(vqmovn_high_s32(first, vcvtnq_s32_f32(value[2 * i + 1])), zero);
    }
    return vminq_s8(vmaxq_s8(vqmovn_high_s16(vqmovn_s16(half[0]), half[1]), low), high);
}

/* Up to 16 outputs of every row, `whole` where they are 16. */
static inline __attribute__((always_inline)) void requantize_panel(const bool adds, const bool whole, const int32_t *sum,
                                                                   size_t sums_step, int32_t rows, size_t width,
                                                                   const msq_epilogue *e, size_t at, int8_t *y,
                                                                   size_t step) {
    const int32_t offset = adds ? e->sum_zero : e->zero;
    const int16x8_t zero = vdupq_n_s16((int16_t)offset);
    const int8x16_t low = vdupq_n_s8((int8_t)(adds ? e->sum_low : (int32_t)e->low + offset));
    const int8x16_t high = vdupq_n_s8((int8_t)(adds ? e->sum_high : (int32_t)e->high + offset));
    int32x4_t bias[4];
    float32x4_t multiplier[4];
    memcpy(bias, e->bias + at, sizeof bias);
    memcpy(multiplier, e->multiplier + at, sizeof multiplier);
    int8_t others[PANEL] = {0};
    for (; rows != 0; rows--, sum += sums_step, at += step) {
        const int8_t *values = adds ? e->values + at : NULL;
        if (adds && !whole) values = memcpy(others, values, width);
        float32x4_t value[4];
        for (int i = 0; i < 4; i++) {
            value[i] = vmulq_f32(vcvtq_f32_s32(ADD(LOAD(sum + i * LANES), bias[i])), multiplier[i]);
            if (adds) value[i] = added(value[i], values + i * 4, e);
        }
        const int8x16_t codes = codes_of(value, zero, low, high);
        if (whole)
            vst1q_s8(y + at, codes);
        else
            memcpy(y + at, &codes, width);
    }
}

static inline __attribute__((always_inline)) void requantize_by(const bool adds, const int32_t *sums, size_t sums_step,
                                                                int32_t rows, int32_t count, const msq_epilogue *e,
                                                                int8_t *y, size_t step) {
    int32_t n = 0;
    for (; n + PANEL <= count; n += PANEL)
        requantize_panel(adds, true, sums + n, sums_step, rows, PANEL, e, (size_t)n, y, step);
    if (n < count)
        requantize_panel(adds, false, sums + n, sums_step, rows, (size_t)(count - n), e, (size_t)n, y, step);
}
