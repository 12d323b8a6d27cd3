/* Arithmetic of tensors without weights, as the integer model defines it. */
#include <string.h>

#include "msq_kernels.h"
#include "tier.h"

static msq_status combine(bool product, const msq_arithmetic *a, size_t count, const int8_t *p, int32_t p_step,
                          const int8_t *q, int32_t q_step, int8_t *y) {
    const msq_tier *tier = msq_current_tier();
    if (tier == NULL) return MSQ_UNSUPPORTED;
    const int32_t zeros[] = {a->p_zero, a->q_zero, a->zero, a->low, a->high};
    for (size_t i = 0; i < sizeof zeros / sizeof *zeros; i++)
        if (!msq_is_code(zeros[i])) return msq_fail(MSQ_INVALID, "a zero point or a limit of %d", zeros[i]);
    const float ratios[] = {product ? a->multiplier : a->p_ratio, product ? a->multiplier : a->q_ratio};
    for (int i = 0; i < 2; i++)
        if (!msq_is_ratio(ratios[i])) return msq_fail(MSQ_INVALID, "scales whose ratio is %g", (double)ratios[i]);
    if ((p_step | q_step) & ~1) return msq_fail(MSQ_INVALID, "steps of %d and %d; each is 0 or 1", p_step, q_step);
    if (count) tier->combine(product, a, count, p, p_step, q, q_step, y);
    return MSQ_OK;
}

msq_status msq_add(const msq_arithmetic *a, size_t count, const int8_t *p, int32_t p_step, const int8_t *q,
                   int32_t q_step, int8_t *y) {
    return combine(false, a, count, p, p_step, q, q_step, y);
}

msq_status msq_multiply(const msq_arithmetic *a, size_t count, const int8_t *p, int32_t p_step, const int8_t *q,
                        int32_t q_step, int8_t *y) {
    return combine(true, a, count, p, p_step, q, q_step, y);
}

void msq_lookup(const int8_t table[256], size_t count, const int8_t *x, int8_t *y) {
    for (size_t i = 0; i < count; i++) y[i] = table[x[i] + 128];
}

/* Sought by blocks, which a compiler makes vectors of. */
size_t msq_first_nan(const float *values, size_t count) {
    enum { BLOCK_VALUES = 256 };
    for (size_t first = 0; first < count; first += BLOCK_VALUES) {
        const size_t end = count - first < BLOCK_VALUES ? count : first + BLOCK_VALUES;
        int32_t found = 0;
        for (size_t i = first; i < end; i++) found |= -(values[i] != values[i]); /* all bits, as vectors compare */
        for (size_t i = first; found && i < end; i++)
            if (values[i] != values[i]) return i;
    }
    return count;
}

/* Vectors that any compiler here makes instructions of. */
typedef int8_t codes __attribute__((vector_size(PANEL)));
typedef int16_t halves __attribute__((vector_size(2 * PANEL)));

enum { MOST_HALVES = 256 }; /* codes whose sum fits 16 bits */

/* Add so many pixels' first `count` channels, `step` codes from pixel to pixel. */
static void add_pixels(int32_t pixels, size_t step, size_t count, const int8_t *x, int32_t *sums) {
    halves sum = {0};
    codes now = {0};
    for (; pixels > 0; pixels--, x += step) {
        if (count == PANEL)
            memcpy(&now, x, PANEL);
        else
            memcpy(&now, x, count);
        sum += __builtin_convertvector(now, halves);
    }
    for (int i = 0; i < PANEL; i++) sums[i] += sum[i];
}

msq_status msq_average_pool(int32_t pixels, int32_t channels, const int8_t *x, int32_t zero, float multiplier,
                            int32_t output_zero, int32_t low, int32_t high, int8_t *y) {
    const msq_tier *tier = msq_current_tier();
    if (tier == NULL) return MSQ_UNSUPPORTED;
    if (pixels < 1 || pixels > INT32_MAX / 255 || channels < 1)
        return msq_fail(MSQ_INVALID, "an average over %d pixels of %d channels", pixels, channels);
    for (int32_t c = 0; c < channels; c += PANEL) {
        const int32_t count = channels - c < PANEL ? channels - c : PANEL;
        int32_t sums[PANEL] = {0}, bias[PANEL];
        float multipliers[PANEL];
        for (int32_t pixel = 0, end; pixel < pixels; pixel = end) {
            end = pixels - pixel < MOST_HALVES ? pixels : pixel + MOST_HALVES;
            add_pixels(end - pixel, (size_t)channels, (size_t)count, x + (size_t)pixel * (size_t)channels + c, sums);
        }
        for (int i = 0; i < PANEL; i++) {
            bias[i] = -zero * pixels;
            multipliers[i] = multiplier;
        }
        const msq_epilogue e = {
            .bias = bias,
            .multiplier = multipliers,
            .low = (float)(low - output_zero),
            .high = (float)(high - output_zero),
            .zero = output_zero,
        };
        tier->requantize(sums, 0, 1, count, &e, y + c, 0);
    }
    return MSQ_OK;
}
