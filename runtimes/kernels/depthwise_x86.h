/* Depthwise sums by x86's dot instructions, over a window that slides along a row of pixels.
 *
 * The bytes of four lines are brought side by side, channel by channel, once for every column of x; an output then
 * takes the columns of its window. Unpacking works within the 128-bit parts of a register, so the loads deal out
 * channels by fours to the parts: register j of four then holds the j-th quarter of the channels in their order. A
 * window of 3 × 3 that moves by one or two holds its sums in registers; of others, columns are held in memory.
 */
#include <immintrin.h>

#include "tier.h"

enum { SLOTS = 36 /* columns that are held: 16 outputs of a window of 3, two apart */, MOST_QUADS = 2 };

/* Whether a window is of a size that is held; others are left to plain loops. */
static inline bool is_held(const msq_window *w) {
    return w->height <= 4 * MOST_QUADS && (w->width - 1) * w->dilation < SLOTS;
}

#define DEAL_128(v) (v)
#define DEAL_256(v) _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7))
#define DEAL_512(v) \
    _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), v)

/* Makes of NAME two functions for the 16 · PARTS channels from x or from the weights on; SUM4(sums, x, w) is the dot
 * instruction:
 *
 *     NAME_weights(window, flat, step, weights)     arrange weights that are flat, `step` bytes from tap to tap
 *     NAME(window, columns, x, weights, wide, sums) the sums of columns pixels
 */
#define DEPTHWISE(NAME, PARTS, VEC8, BITS, DEAL, SUM4) \
    /* Lines first … first + 3, `down` bytes apart; 0 where the window has no more. */ \
    static inline __attribute__((always_inline)) void NAME##_side_by_side(const uint8_t *x, ptrdiff_t down, \
                                                                          const int lines, VEC8 *out) { \
        VEC8 line[4]; \
        for (int i = 0; i < 4; i++) { \
            memset(&line[i], 0, sizeof line[i]); \
            if (i >= lines) continue; \
            memcpy(&line[i], x + i * down, sizeof line[i]); \
            line[i] = DEAL(line[i]); \
        } \
        const VEC8 ab = BITS##_unpacklo_epi8(line[0], line[1]), cd = BITS##_unpacklo_epi8(line[2], line[3]); \
        const VEC8 ef = BITS##_unpackhi_epi8(line[0], line[1]), gh = BITS##_unpackhi_epi8(line[2], line[3]); \
        out[0] = BITS##_unpacklo_epi16(ab, cd); \
        out[1] = BITS##_unpackhi_epi16(ab, cd); \
        out[2] = BITS##_unpacklo_epi16(ef, gh); \
        out[3] = BITS##_unpackhi_epi16(ef, gh); \
    } \
    static inline void NAME##_weights(const msq_window *w, const uint8_t *flat, size_t step, int8_t *weights) { \
        const int32_t quads = (w->height + 3) / 4; \
        for (int32_t i = 0; i < w->width * quads; i++, weights += 64 * PARTS) { \
            const int32_t line = i % quads * 4; \
            VEC8 out[4]; \
            NAME##_side_by_side(flat + (size_t)(line * w->width + i / quads) * step, (ptrdiff_t)step * w->width, \
                                w->height - line, out); \
            memcpy(weights, out, sizeof out); \
        } \
    } \
    static inline __attribute__((always_inline)) void NAME##_of( \
        const msq_window *w, int32_t columns, const uint8_t *x, const int8_t *weights, const bool wide, \
        int32_t *sums) { \
        (void)wide; \
        const int height = w->height, width = w->width, quads = (height + 3) / 4; \
        VEC8 held[SLOTS * MOST_QUADS * 4]; \
        const int32_t reach = (width - 1) * w->dilation + 1, most = (SLOTS - reach) / w->stride + 1; \
        for (int32_t done = 0, now; done < columns; done += now) { \
            now = columns - done < most ? columns - done : most; \
            const int32_t slots = (now - 1) * w->stride + reach; \
            for (int32_t slot = 0; slot < slots; slot++, x += w->pixel) \
                for (int q = 0; q < quads; q++) \
                    NAME##_side_by_side(x + 4 * q * w->down, w->down, height - 4 * q, held + (slot * quads + q) * 4); \
            x += (ptrdiff_t)(now * w->stride - slots) * w->pixel; \
            for (int32_t column = 0; column < now; column++, sums += w->channels) { \
                VEC8 s[4]; \
                memset(s, 0, sizeof s); \
                for (int i = 0; i < width * quads; i++) { \
                    const VEC8 *in = held + ((column * w->stride + i / quads * w->dilation) * quads + i % quads) * 4; \
                    VEC8 by[4]; \
                    memcpy(by, weights + 64 * PARTS * i, sizeof by); \
                    for (int j = 0; j < 4; j++) s[j] = SUM4(s[j], in[j], by[j]); \
                } \
                memcpy(sums, s, sizeof s); \
            } \
        } \
    } \
    /* sums + the products of three lines of a column by a column of weights. */ \
    static inline __attribute__((always_inline)) void NAME##_add(const VEC8 *sums, const VEC8 *in, \
                                                                 const int8_t *weights, const bool wide, VEC8 *out) { \
        (void)wide; \
        for (int j = 0; j < 4; j++) { \
            VEC8 by, sum; \
            memcpy(&by, weights + 16 * PARTS * j, sizeof by); \
            if (sums) \
                sum = sums[j]; \
            else \
                memset(&sum, 0, sizeof sum); \
            out[j] = SUM4(sum, in[j], by); \
        } \
    } \
    /* A window of 3 × 3: a column is multiplied at once for every output that it takes part in. */ \
    static inline __attribute__((always_inline)) void NAME##_slid(const int stride, const msq_window *w, \
                                                                  int32_t columns, const uint8_t *x, \
                                                                  const int8_t *weights, const bool wide, \
                                                                  int32_t *sums) { \
        VEC8 in[4], this[4], next[4], kept[12]; \
        memcpy(kept, weights, sizeof kept); \
        const int8_t *const by = (const int8_t *)kept; \
        const ptrdiff_t pixel = w->pixel, down = w->down; \
        const int32_t channels = w->channels, step = 64 * PARTS; \
        NAME##_side_by_side(x, down, 3, in); \
        NAME##_add(NULL, in, by, wide, this); \
        if (stride == 1) { \
            x += pixel; \
            NAME##_side_by_side(x, down, 3, in); \
            NAME##_add(this, in, by + step, wide, this); \
            NAME##_add(NULL, in, by, wide, next); \
        } \
        for (; columns > 0; columns--, sums += channels) { \
            if (stride == 2) { \
                x += pixel; \
                NAME##_side_by_side(x, down, 3, in); \
                NAME##_add(this, in, by + step, wide, this); \
            } \
            x += pixel; \
            NAME##_side_by_side(x, down, 3, in); \
            NAME##_add(this, in, by + 2 * step, wide, this); \
            memcpy(sums, this, sizeof this); \
            if (stride == 1) \
                NAME##_add(next, in, by + step, wide, this); \
            NAME##_add(NULL, in, by, wide, stride == 1 ? next : this); \
        } \
    } \
    static inline __attribute__((always_inline)) void NAME(const msq_window *w, int32_t columns, const uint8_t *x, \
                                                           const int8_t *weights, const bool wide, int32_t *sums) { \
        const bool is_slid = w->height == 3 && w->width == 3 && w->dilation == 1; \
        if (is_slid && w->stride == 1) \
            NAME##_slid(1, w, columns, x, weights, wide, sums); \
        else if (is_slid && w->stride == 2) \
            NAME##_slid(2, w, columns, x, weights, wide, sums); \
        else \
            NAME##_of(w, columns, x, weights, wide, sums); \
    }

#ifdef TIER_CARES_FOR_WIDE
#define IS_WIDE(grid) msq_is_wide(grid)
#else
#define IS_WIDE(grid) ((void)(grid), false)
#endif

/* Makes of BLOCKS(DO), which is DO(size) for the sizes from the largest on, what a tier offers. */
#define ARRANGE_BLOCK(size) \
    for (; at + size <= w->channels; at += size) depthwise_##size##_weights(w, flat + at, step, weights + at * taps);
#define SUM_BLOCK(size) \
    for (; at + size <= w->channels; at += size) \
        depthwise_##size(w, columns, x + at, weights + at * taps, wide, sums + at);
#define DEPTHWISE_OVER(BLOCKS) \
    static void held_arrange(const msq_window *w, const uint8_t *flat, size_t step, int8_t *weights) { \
        const size_t taps = msq_window_weights(w) / (size_t)w->channels; \
        int32_t at = 0; \
        BLOCKS(ARRANGE_BLOCK) \
    } \
    static inline __attribute__((always_inline)) void held_of(const bool wide, const msq_window *w, int32_t columns, \
                                                              const uint8_t *x, const int8_t *weights, \
                                                              int32_t *sums) { \
        const size_t taps = msq_window_weights(w) / (size_t)w->channels; \
        int32_t at = 0; \
        BLOCKS(SUM_BLOCK) \
    } \
    static void held_depthwise(const msq_grid *grid, const msq_window *w, int32_t columns, const uint8_t *x, \
                               const int8_t *weights, int32_t *sums) { \
        if (IS_WIDE(grid)) \
            held_of(true, w, columns, x, weights, sums); \
        else \
            held_of(false, w, columns, x, weights, sums); \
    }
