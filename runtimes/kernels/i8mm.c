/* NEON matrix tier: smmla, of ARMv8.6 processors (Cortex-A510, A710, Neoverse V1 and later), multiplies two rows of
 * eight inputs by two outputs of eight weights. A tile's rows go in pairs; layers of few rows use the dot product. */
#include "neon_dot.h"

#include "loops.h"

/* The low and the high halves of two registers. */
#define LOW_HALVES(a, b) vreinterpretq_s32_s64(vzip1q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)))
#define HIGH_HALVES(a, b) vreinterpretq_s32_s64(vzip2q_s64(vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)))

/* Two groups' inputs of a pair of rows by their weights; `second`: of the other group, in which NULL stands for zeros.
 * sums[2 · v + h]: outputs 4 · v + 2 · h and the next of the first row, then of the second. */
INLINE void matrix_step(const int pairs, const int8x16_t *x, const int8_t *first, const int8_t *second,
                        int32x4_t *sums) {
    UNROLL for (int v = 0; v < VECS; v++) {
        const int32x4_t one = vreinterpretq_s32_s8(vld1q_s8(first + 16 * v));
        const int32x4_t two = second ? vreinterpretq_s32_s8(vld1q_s8(second + 16 * v)) : vdupq_n_s32(0);
        const int8x16_t low = vreinterpretq_s8_s32(vzip1q_s32(one, two));
        const int8x16_t high = vreinterpretq_s8_s32(vzip2q_s32(one, two));
        UNROLL for (int p = 0; p < pairs; p++) {
            int32x4_t *sum = sums + 2 * (p * VECS + v);
            sum[0] = vmmlaq_s32(sum[0], x[p], low);
            sum[1] = vmmlaq_s32(sum[1], x[p], high);
        }
    }
}

/* `bytes` (4 or 8) inputs of each of two rows, filled up with zeros. */
INLINE int8x16_t pair_of(const uint8_t *first, const uint8_t *second, const size_t bytes) {
    uint64_t halves[2] = {0, 0};
    memcpy(halves, first, bytes);
    memcpy(halves + 1, second, bytes);
    return vreinterpretq_s8_u64(vcombine_u64(vcreate_u64(halves[0]), vcreate_u64(halves[1])));
}

INLINE void matrix_tile(const int rows, const uint8_t *const *x, const msq_run *runs, int32_t run_count,
                        const int8_t *weights, bool more, int32_t *out) {
    const int pairs = (rows + 1) / 2;
    int32x4_t sums[3 * 2 * VECS];
    const uint8_t *row[6];
    /* The last of an odd number of rows is multiplied twice. */
    UNROLL for (int r = 0; r < 2 * pairs; r++) row[r] = x[r < rows ? r : rows - 1];
    UNROLL for (int i = 0; i < pairs * VECS; i++) {
        const int r = i / VECS * 2, next = r + 1 < rows ? r + 1 : r, at = i % VECS * LANES;
        const int32x4_t one = more ? LOAD(out + r * PANEL + at) : ZERO();
        const int32x4_t two = more ? LOAD(out + next * PANEL + at) : ZERO();
        sums[2 * i] = LOW_HALVES(one, two);
        sums[2 * i + 1] = HIGH_HALVES(one, two);
    }
    for (int32_t run = 0; run < run_count; run++) {
        ptrdiff_t at = runs[run].offset;
        int32_t left = runs[run].groups;
        int8x16_t now[3], then[3];
        for (; left >= 4; left -= 4, at += 16, weights += 4 * ATOM) {
            UNROLL for (int p = 0; p < pairs; p++) {
                const int32x4_t one = vreinterpretq_s32_s8(LOAD_16(row[2 * p] + at));
                const int32x4_t two = vreinterpretq_s32_s8(LOAD_16(row[2 * p + 1] + at));
                now[p] = vreinterpretq_s8_s32(LOW_HALVES(one, two));
                then[p] = vreinterpretq_s8_s32(HIGH_HALVES(one, two));
            }
            matrix_step(pairs, now, weights, weights + ATOM, sums);
            matrix_step(pairs, then, weights + 2 * ATOM, weights + 3 * ATOM, sums);
        }
        for (; left >= 2; left -= 2, at += 8, weights += 2 * ATOM) {
            UNROLL for (int p = 0; p < pairs; p++) now[p] = pair_of(row[2 * p] + at, row[2 * p + 1] + at, 8);
            matrix_step(pairs, now, weights, weights + ATOM, sums);
        }
        if (left) {
            UNROLL for (int p = 0; p < pairs; p++) now[p] = pair_of(row[2 * p] + at, row[2 * p + 1] + at, 4);
            matrix_step(pairs, now, weights, NULL, sums);
            weights += ATOM;
        }
    }
    UNROLL for (int i = 0; i < pairs * VECS; i++) {
        const int r = i / VECS * 2, at = i % VECS * LANES;
        STORE(out + r * PANEL + at, LOW_HALVES(sums[2 * i], sums[2 * i + 1]));
        if (r + 1 < rows) STORE(out + (r + 1) * PANEL + at, HIGH_HALVES(sums[2 * i], sums[2 * i + 1]));
    }
}

static void tile(const msq_grid *grid, int32_t rows, int32_t panels, const uint8_t *const *x, const msq_run *runs,
                 int32_t run_count, const int8_t *weights, bool more, int32_t *sums) {
    (void)grid, (void)panels;
#define ROWS(r) \
    case r: matrix_tile(r, x, runs, run_count, weights, more, sums); return;
    switch (rows) {
        ROWS(1) ROWS(2) ROWS(3) ROWS(4) ROWS(5) ROWS(6)
        default: __builtin_unreachable();
    }
}

static bool supported(void) { return getauxval(AT_HWCAP2) & (1ul << 13); /* I8MM */ }

const msq_tier msq_i8mm = {
    "i8mm", "the 8-bit matrix instructions of ARMv8.6", supported, FLIP, 1, {6},
    copy, prepare, unpack, tile, NULL, NULL, fused, arrange, depthwise, requantize, combine, quantize, maximum,
};
