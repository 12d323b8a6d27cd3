/* The loops of a tier, written once over the few operations that a tier defines before it includes this file:
 *
 *   VEC, LANES                 int32 sums of LANES outputs
 *   WEIGHTS                    LANES · 4 int8 weights: the operand of DOT
 *   INPUTS                     up to 16 inputs of a row, or where they lie
 *   ZERO() LOAD(p) STORE(p,v) ADD(v,v)       of VEC
 *   LOAD_WEIGHTS(p) STORE_WEIGHTS(p,w)
 *   LOAD_16(p) LOAD_4(p)       inputs of four groups, of one group
 *   DOT(sums, weights, inputs, lane, wide)   sums + Σ of the four products of group `lane`; wide: |w| may exceed 64
 *   WEIGHTS_OF(block, v, bits, group, grid)  the weights of vector v of a group of a packed block
 *   GRID, GRID_OF(grid)        what WEIGHTS_OF takes, made once a layer
 *   TIER_TILES(TILE), TIER_SUMS              TILE(rows, panels) for every size of a tile, and the most sums of one
 *   FLIP                       the tier's `flip`: 0, if not defined
 *   TIER_CARES_FOR_WIDE        where DOT uses `wide`
 *   INPUT                      type of an input that is not flipped back: int8_t, if not defined
 *   TIER_HAS_TILE              where it has its own `tile`
 *   TIER_HAS_DEPTHWISE         where it has its own held_depthwise, for windows that is_held() says
 *   TIER_HAS_ARRANGE           where held_depthwise has its own order of weights, made by held_arrange
 *   TIER_HAS_REQUANTIZE        where it has its own `requantize_by`, which may follow this file
 *   TIER_IS_SMALL              where loops are left loops, and widths and numbers of rows variables
 */
#include <string.h>

#include "tier.h"

#define INLINE static inline __attribute__((always_inline))
#if defined(TIER_IS_SMALL)
#define UNROLL
#elif defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#define VECS (PANEL / LANES)

#ifndef FLIP
#define FLIP 0
#endif

/* Do CALL(width) with the width as a literal, so that each has a loop of its own. */
#if defined(TIER_IS_SMALL)
#define FOR_WIDTH(width, CALL) CALL(width);
#else
#define FOR_WIDTH(width, CALL) \
    switch (width) { \
        case 1: CALL(1); return; \
        case 2: CALL(2); return; \
        case 3: CALL(3); return; \
        case 4: CALL(4); return; \
        case 5: CALL(5); return; \
        case 6: CALL(6); return; \
        case 7: CALL(7); return; \
        case 8: CALL(8); return; \
        default: __builtin_unreachable(); \
    }
#endif

#ifndef TIER_HAS_TILE
INLINE void tile_step(const int rows, const int vecs, const int lane, const bool wide, INPUTS const *x,
                      const int8_t *weights, VEC *sums) {
    (void)wide;
    WEIGHTS w[MAX_PANELS * VECS];
    UNROLL for (int v = 0; v < vecs; v++) w[v] = LOAD_WEIGHTS(weights + v * LANES * GROUP);
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int v = 0; v < vecs; v++) sums[r * vecs + v] = DOT(sums[r * vecs + v], w[v], x[r], lane, wide);
    }
}

INLINE void tile_of(const int rows, const int vecs, const bool wide, const uint8_t *const *x, const msq_run *runs,
                    int32_t run_count, const int8_t *weights, bool more, int32_t *out) {
    const int step = vecs * LANES * GROUP;
    VEC sums[TIER_SUMS];
    UNROLL for (int i = 0; i < rows * vecs; i++) sums[i] = more ? LOAD(out + i * LANES) : ZERO();
    for (int32_t run = 0; run < run_count; run++) {
        const ptrdiff_t offset = runs[run].offset;
        int32_t left = runs[run].groups, at = 0;
        INPUTS now[MAX_ROWS];
        for (; left >= 4; left -= 4, at += 16, weights += 4 * step) {
            UNROLL for (int r = 0; r < rows; r++) now[r] = LOAD_16(x[r] + offset + at);
            tile_step(rows, vecs, 0, wide, now, weights, sums);
            tile_step(rows, vecs, 1, wide, now, weights + step, sums);
            tile_step(rows, vecs, 2, wide, now, weights + 2 * step, sums);
            tile_step(rows, vecs, 3, wide, now, weights + 3 * step, sums);
        }
        for (; left > 0; left--, at += 4, weights += step) {
            UNROLL for (int r = 0; r < rows; r++) now[r] = LOAD_4(x[r] + offset + at);
            tile_step(rows, vecs, 0, wide, now, weights, sums);
        }
    }
    UNROLL for (int i = 0; i < rows * vecs; i++) STORE(out + i * LANES, sums[i]);
}

#define TILE(r, p) \
    case (p) * 32 + (r): \
        tile_of(r, (p) * VECS, wide, x, runs, run_count, weights, more, sums); \
        return;

INLINE void tile_sizes(const bool wide, int32_t rows, int32_t panels, const uint8_t *const *x, const msq_run *runs,
                       int32_t run_count, const int8_t *weights, bool more, int32_t *sums) {
    switch (panels * 32 + rows) {
        TIER_TILES(TILE)
        default:
            __builtin_unreachable();
    }
}

static void tile(const msq_grid *grid, int32_t rows, int32_t panels, const uint8_t *const *x, const msq_run *runs,
                 int32_t run_count, const int8_t *weights, bool more, int32_t *sums) {
#ifdef TIER_CARES_FOR_WIDE
    if (msq_is_wide(grid)) {
        tile_sizes(true, rows, panels, x, runs, run_count, weights, more, sums);
        return;
    }
#else
    (void)grid;
#endif
    tile_sizes(false, rows, panels, x, runs, run_count, weights, more, sums);
}
#endif

static void copy(const uint8_t *x, size_t count, uint8_t *to) {
    for (size_t i = 0; i < count; i++) to[i] = x[i] ^ FLIP;
}

static void prepare(msq_grid *grid) {
    _Static_assert(sizeof(GRID) <= sizeof grid->made, "a grid has room for what this tier makes of it");
    const GRID made = GRID_OF(grid);
    memcpy(grid->made, &made, sizeof made);
}

/* Groups whose weights are made before any is stored: what they share is then read once, for a store may change all. */
#define TOGETHER (VECS < GROUPS ? GROUPS / VECS : 1)

INLINE void unpack_blocks(const int bits, GRID const *made, const uint8_t *packed, int32_t blocks, int8_t *weights,
                          size_t stride) {
    const GRID grid = *made;
    for (; blocks > 0; blocks--, packed += bits * ATOM, weights += GROUPS * stride) {
        UNROLL for (int first = 0; first < GROUPS; first += TOGETHER) {
            WEIGHTS w[TOGETHER * VECS];
            UNROLL for (int i = 0; i < TOGETHER * VECS; i++)
                w[i] = WEIGHTS_OF(packed, i % VECS, bits, first + i / VECS, grid);
            UNROLL for (int i = 0; i < TOGETHER * VECS; i++)
                STORE_WEIGHTS(weights + (size_t)(first + i / VECS) * stride + i % VECS * LANES * GROUP, w[i]);
        }
    }
}

INLINE void unpack_of(const int bits, const msq_grid *grid, const uint8_t *packed, size_t first, int32_t groups,
                      int8_t *weights, size_t stride) {
    const GRID *const made = (const void *)grid->made;
    packed += first / GROUPS * (size_t)bits * ATOM;
    /* A panel may begin and end within a block: of such ones all is unpacked, and what belongs to it is taken. */
    for (int32_t skip = (int32_t)(first % GROUPS), taken; groups > 0; groups -= taken, skip = 0) {
        _Alignas(ATOM) int8_t block[GROUPS * ATOM];
        const bool whole = skip == 0 && groups >= GROUPS;
        const int32_t blocks = whole ? groups / GROUPS : 1;
        unpack_blocks(bits, made, packed, blocks, whole ? weights : block, whole ? stride : ATOM);
        taken = whole ? blocks * GROUPS : groups < GROUPS - skip ? groups : GROUPS - skip;
        for (int32_t i = 0; !whole && i < taken; i++)
            memcpy(weights + (size_t)i * stride, block + (skip + i) * ATOM, ATOM);
        packed += blocks * bits * ATOM;
        weights += (size_t)taken * stride;
    }
}

static void unpack(const msq_grid *grid, const uint8_t *packed, size_t first, int32_t groups, int8_t *weights,
                   size_t stride) {
#define UNPACK(bits) unpack_of(bits, grid, packed, first, groups, weights, stride)
    FOR_WIDTH(grid->bits, UNPACK)
#undef UNPACK
}

/* Chains of sums that a row of a fused tile has, so that a product need not wait for the one before. */
#define CHAINS(rows) (VECS * (rows) >= 8 ? 1 : VECS * (rows) >= 4 ? 2 : 4)

INLINE void fused_of(const int bits, const int rows, const bool wide, const msq_grid *grid, const uint8_t *const *x,
                     int32_t blocks, const uint8_t *packed, int32_t *out) {
    (void)wide;
    const GRID *const made = (const void *)grid->made;
    const GRID own = *made;
    const int chains = CHAINS(rows);
    VEC sums[4 * VECS * 4];
    UNROLL for (int i = 0; i < rows * VECS * chains; i++) sums[i] = ZERO();
    for (int32_t block = 0; block < blocks; block++, packed += bits * ATOM) {
        INPUTS now[2 * 4];
        UNROLL for (int r = 0; r < rows; r++) {
            now[2 * r] = LOAD_16(x[r] + block * BLOCK);
            now[2 * r + 1] = LOAD_16(x[r] + block * BLOCK + 16);
        }
        UNROLL for (int group = 0; group < GROUPS; group++) {
            UNROLL for (int v = 0; v < VECS; v++) {
                const WEIGHTS w = WEIGHTS_OF(packed, v, bits, group, own);
                UNROLL for (int r = 0; r < rows; r++) {
                    VEC *sum = &sums[(r * VECS + v) * chains + group % chains];
                    *sum = DOT(*sum, w, now[2 * r + group / 4], group % 4, wide);
                }
            }
        }
    }
    UNROLL for (int i = 0; i < rows * VECS; i++) {
        VEC sum = ZERO();
        UNROLL for (int chain = 0; chain < chains; chain++) sum = ADD(sum, sums[i * chains + chain]);
        STORE(out + i * LANES, sum);
    }
}

INLINE void fused_rows(const int bits, const msq_grid *grid, int32_t rows, const uint8_t *const *x, int32_t blocks,
                       const uint8_t *packed, int32_t *sums) {
    /* One bit more where a = 2; both grids of a width are of one instance, so the wider counts. */
    const bool wide = bits > 6;
#if defined(TIER_IS_SMALL)
    fused_of(bits, rows, wide, grid, x, blocks, packed, sums);
#else
    switch (rows) {
        case 1: fused_of(bits, 1, wide, grid, x, blocks, packed, sums); return;
        case 2: fused_of(bits, 2, wide, grid, x, blocks, packed, sums); return;
        case 4: fused_of(bits, 4, wide, grid, x, blocks, packed, sums); return;
        default: __builtin_unreachable();
    }
#endif
}

static void fused(const msq_grid *grid, int32_t rows, const uint8_t *const *x, int32_t blocks, const uint8_t *packed,
                  int32_t *sums) {
#define FUSED(bits) fused_rows(bits, grid, rows, x, blocks, packed, sums)
    FOR_WIDTH(grid->bits, FUSED)
#undef FUSED
}

/* What follows is plain C: a compiler makes vectors of it, of the tier's instructions. */

#ifndef INPUT
#define INPUT int8_t
#endif

INLINE void plain_arrange(const msq_window *w, const uint8_t *flat, size_t step, int8_t *weights) {
    const size_t channels = (size_t)w->channels;
    for (int32_t t = 0; t < w->height * w->width; t++)
        memcpy(weights + (size_t)t * channels, flat + (size_t)t * step, channels);
}

INLINE void plain_depthwise(const msq_window *w, int32_t columns, const uint8_t *x, const int8_t *weights,
                            int32_t *sums) {
    const int32_t channels = w->channels;
    for (; columns > 0; columns--, x += w->stride * w->pixel, sums += channels) {
        for (int32_t c = 0; c < channels; c += PANEL) {
            int32_t sum[PANEL] = {0};
            const int8_t *by = weights + c;
            for (int32_t up = 0; up < w->height; up++) {
                const INPUT *in = (const INPUT *)(x + up * w->down) + c;
                const ptrdiff_t apart = w->dilation * w->pixel;
                for (int32_t along = 0; along < w->width; along++, in += apart, by += channels)
                    for (int i = 0; i < PANEL; i++) sum[i] += (int16_t)(in[i] * by[i]);
            }
            memcpy(sums + c, sum, sizeof sum);
        }
    }
}

static void arrange(const msq_window *w, const uint8_t *flat, size_t step, int8_t *weights) {
#ifdef TIER_HAS_ARRANGE
    if (is_held(w)) {
        held_arrange(w, flat, step, weights);
        return;
    }
#endif
    plain_arrange(w, flat, step, weights);
}

static void depthwise(const msq_grid *grid, const msq_window *w, int32_t columns, const uint8_t *x,
                      const int8_t *weights, int32_t *sums) {
    (void)grid;
#ifdef TIER_HAS_DEPTHWISE
    if (is_held(w)) {
        held_depthwise(grid, w, columns, x, weights, sums);
        return;
    }
#endif
    plain_depthwise(w, columns, x, weights, sums);
}

INLINE float within(float value, float low, float high) {
    value = value < low ? low : value;
    return value > high ? high : value;
}

/* Clamped before it is rounded: between whole limits the order makes no difference, and no float leaves int's range. */
INLINE float code_of(int32_t sum, int32_t bias, float multiplier, float low, float high) {
    return within((float)(int32_t)((uint32_t)sum + (uint32_t)bias) * multiplier, low, high);
}

INLINE void requantize_by(const bool adds, const int32_t *sums, size_t sums_step, int32_t rows, int32_t count,
                          const msq_epilogue *epilogue, int8_t *y, size_t step);

#ifndef TIER_HAS_REQUANTIZE
/* PANEL outputs from the n-th on. values: of the residual addition, if it `adds`. */
INLINE void codes_of(const bool adds, const int32_t *sums, int32_t n, const int8_t *values, const msq_epilogue *e,
                     int8_t *codes) {
    const float low = adds ? (float)(e->sum_low - e->sum_zero) : e->low;
    const float high = adds ? (float)(e->sum_high - e->sum_zero) : e->high;
    const int32_t zero = adds ? e->sum_zero : e->zero;
    for (int i = 0; i < PANEL; i++) {
        float code = code_of(sums[n + i], e->bias[n + i], e->multiplier[n + i], e->low, e->high);
        if (adds) {
            const float left = __builtin_rintf(__builtin_rintf(code) * e->ratio);
            code = within(left + __builtin_rintf((float)(values[i] - e->residual_zero) * e->residual_ratio), low, high);
        }
        codes[i] = (int8_t)((int32_t)__builtin_rintf(code) + zero);
    }
}

INLINE void requantize_by(const bool adds, const int32_t *sums, size_t sums_step, int32_t rows, int32_t count,
                          const msq_epilogue *epilogue, int8_t *y, size_t step) {
    const msq_epilogue e = *epilogue; /* y may be anything to a compiler, even this */
    const int8_t *values = e.values;
    for (; rows > 0; rows--, sums += sums_step, y += step, values = adds ? values + step : NULL) {
        int32_t n = 0;
        for (; n + PANEL <= count; n += PANEL) {
            int8_t codes[PANEL];
            codes_of(adds, sums, n, adds ? values + n : NULL, &e, codes);
            memcpy(y + n, codes, PANEL);
        }
        if (n == count) continue;
        int8_t rest[PANEL], others[PANEL] = {0};
        if (adds) memcpy(others, values + n, (size_t)(count - n));
        codes_of(adds, sums, n, others, &e, rest);
        memcpy(y + n, rest, (size_t)(count - n));
    }
}

#endif

static void requantize(const int32_t *sums, size_t sums_step, int32_t rows, int32_t count, const msq_epilogue *e,
                       int8_t *y, size_t step) {
    if (e->values)
        requantize_by(true, sums, sums_step, rows, count, e, y, step);
    else
        requantize_by(false, sums, sums_step, rows, count, e, y, step);
}

/* PANEL codes of a sum or a product. p_one, q_one: one code for all. */
INLINE void combine_panel(const bool product, const bool p_one, const bool q_one, const msq_arithmetic *a, const int8_t *p,
                          const int8_t *q, int8_t *y) {
    const float low = (float)(a->low - a->zero), high = (float)(a->high - a->zero);
    const float p_ratio = a->p_ratio, q_ratio = a->q_ratio, multiplier = a->multiplier;
    const int32_t p_zero = a->p_zero, q_zero = a->q_zero, zero = a->zero;
    int8_t codes[PANEL];
    for (int i = 0; i < PANEL; i++) {
        const int32_t left = p[p_one ? 0 : i] - p_zero, right = q[q_one ? 0 : i] - q_zero;
        const float exact = product ? __builtin_rintf((float)(left * right) * multiplier)
                                    : __builtin_rintf((float)left * p_ratio) + __builtin_rintf((float)right * q_ratio);
        codes[i] = (int8_t)((int32_t)within(exact, low, high) + zero);
    }
    memcpy(y, codes, PANEL);
}

INLINE void combine_all(const bool product, const bool p_one, const bool q_one, const msq_arithmetic *arithmetic,
                        size_t count, const int8_t *p, const int8_t *q, int8_t *y) {
    const msq_arithmetic own = *arithmetic; /* y may be anything to a compiler, even this */
    size_t i = 0;
    for (; i + PANEL <= count; i += PANEL)
        combine_panel(product, p_one, q_one, &own, p_one ? p : p + i, q_one ? q : q + i, y + i);
    if (i == count) return;
    int8_t left[PANEL] = {0}, right[PANEL] = {0}, codes[PANEL];
    memcpy(left, p_one ? p : p + i, p_one ? 1 : count - i);
    memcpy(right, q_one ? q : q + i, q_one ? 1 : count - i);
    combine_panel(product, p_one, q_one, &own, left, right, codes);
    memcpy(y + i, codes, count - i);
}

INLINE void combine_steps(const bool product, const msq_arithmetic *a, size_t count, const int8_t *p, int32_t p_step,
                          const int8_t *q, int32_t q_step, int8_t *y) {
#if defined(TIER_IS_SMALL)
    combine_all(product, !p_step, !q_step, a, count, p, q, y);
#else
    if (count == 1 || (p_step && q_step))
        combine_all(product, false, false, a, count, p, q, y);
    else if (p_step)
        combine_all(product, false, true, a, count, p, q, y);
    else if (q_step)
        combine_all(product, true, false, a, count, p, q, y);
    else
        combine_all(product, true, true, a, count, p, q, y);
#endif
}

static void combine(bool product, const msq_arithmetic *a, size_t count, const int8_t *p, int32_t p_step,
                    const int8_t *q, int32_t q_step, int8_t *y) {
    if (product)
        combine_steps(true, a, count, p, p_step, q, q_step, y);
    else
        combine_steps(false, a, count, p, p_step, q, q_step, y);
}

static void quantize(size_t count, const float *x, float scale, int32_t zero, int32_t low, int32_t high, int8_t *y) {
    const float least = (float)(low - zero), most = (float)(high - zero);
    for (size_t i = 0; i < count; i++)
        y[i] = (int8_t)((int32_t)__builtin_rintf(within(x[i] / scale, least, most)) + zero);
}

static void maximum(int32_t rows, size_t count, const int8_t *restrict x, size_t x_step, int8_t *restrict y,
                    size_t y_step) {
    for (; rows > 0; rows--, x += x_step, y += y_step) {
        size_t i = 0;
        for (; i + ATOM <= count; i += ATOM) /* a loop whose length the compiler knows */
            for (size_t k = i; k < i + ATOM; k++) y[k] = x[k] > y[k] ? x[k] : y[k];
        for (; i < count; i++) y[i] = x[i] > y[i] ? x[i] : y[i];
    }
}
