/* AVX512-VNNI tier: a dot instruction over 16 outputs, and GFNI's bit matrices, which take a field out of packed bytes
 * and make a signed weight of it at once. */
#include <immintrin.h>
#include <string.h>

#include "depthwise_x86.h"
#include "tier.h"
#include "x86.h"

/* A matrix for each group and plane, and the bits that a product with it lacks. */
typedef struct {
    uint64_t matrix[GROUPS][3];
    __m512i constant;
} grid512;

#define VEC __m512i
#define LANES 16
#define WEIGHTS __m512i
#define INPUTS const uint8_t *
#define GRID grid512
#define GRID_OF(grid) grid_of(grid)
#define ZERO() _mm512_setzero_si512()
#define LOAD(p) _mm512_loadu_si512(p)
#define STORE(p, v) _mm512_storeu_si512(p, v)
#define ADD(a, b) _mm512_add_epi32(a, b)
#define LOAD_WEIGHTS(p) _mm512_load_si512(p)
#define STORE_WEIGHTS(p, w) _mm512_store_si512(p, w)
#define LOAD_16(p) (p)
#define LOAD_4(p) (p)
#define DOT(sum, weights, x, lane, wide) _mm512_dpbusd_epi32(sum, inputs_of((x) + 4 * (lane)), weights)
#define WEIGHTS_OF(block, v, bits, group, grid) weights_of(block, bits, group, &(grid))
#define FLIP 0x80
#define TIER_SUMS 24
#define TIER_TILES(TILE) \
    TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1) TILE(7, 1) TILE(8, 1) \
    TILE(1, 2) TILE(2, 2) TILE(3, 2) TILE(4, 2) TILE(5, 2) TILE(6, 2) TILE(7, 2) TILE(8, 2) \
    TILE(1, 3) TILE(2, 3) TILE(3, 3) TILE(4, 3) TILE(5, 3) TILE(6, 3) TILE(7, 3) TILE(8, 3) \
    TILE(1, 4) TILE(2, 4) TILE(3, 4) TILE(4, 4) TILE(5, 4) TILE(6, 4)

static inline __attribute__((always_inline)) __m512i inputs_of(const uint8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
}

/* w = a · code − z: the code's lower bits move up by a − 1, its top bit, inverted, fills all that are above. */
static grid512 grid_of(const msq_grid *grid) {
    grid512 made;
    const int up = grid->a - 1, top = grid->bits - 1;
    memset(&made, 0, sizeof made);
    for (int group = 0; group < GROUPS; group++) {
        for (int plane = 8, index = 0, low = 0; plane; plane /= 2) {
            if (grid->bits == 8 ? plane != 8 : plane == 8 || !(grid->bits & plane)) continue;
            const int shift = plane * (group % (8 / plane));
            for (int bit = 0; bit < plane; bit++) {
                const int code = low + bit;
                for (int to = code + up; to < (code == top ? 8 : code + up + 1); to++)
                    made.matrix[group][index] |= 1ull << (8 * (7 - to) + shift + bit);
            }
            low += plane;
            index++;
        }
    }
    made.constant = _mm512_set1_epi8((char)(0xff << (top + up) | up));
    return made;
}

static inline __attribute__((always_inline)) __m512i product(const uint8_t *atom, const uint64_t *matrix) {
    __m512i all = _mm512_set1_epi64((long long)*matrix);
#if defined(__clang__) && __clang_major__ < 20
    __asm__("" : "+v"(all)); /* kept in a register: as a broadcast operand it is misplaced (LLVM's pull request 120340) */
#endif
    return _mm512_gf2p8affine_epi64_epi8(_mm512_loadu_si512(atom), all, 0);
}

static inline __attribute__((always_inline)) __m512i weights_of(const uint8_t *block, const int bits, const int group,
                                                                const grid512 *grid) {
    enum { XOR3 = 0x96 };
    const msq_planes planes = msq_planes_of(bits);
    const int first = planes.first, second = planes.second, third = planes.third;
    const __m512i one = product(block + group * first / 8 * ATOM, &grid->matrix[group][0]);
    if (!second) return _mm512_xor_si512(one, grid->constant);
    const __m512i two = product(block + (first + group * second / 8) * ATOM, &grid->matrix[group][1]);
    const __m512i most = _mm512_ternarylogic_epi64(one, two, grid->constant, XOR3);
    if (!third) return most;
    return _mm512_xor_si512(most, product(block + (first + second) * ATOM, &grid->matrix[group][2]));
}

#define TIER_HAS_DEPTHWISE
#define TIER_HAS_ARRANGE
#define INPUT uint8_t

#define SUM_512(sum, x, w) _mm512_dpbusd_epi32(sum, x, w)
#define SUM_256(sum, x, w) _mm256_dpbusd_epi32(sum, x, w)
#define SUM_128(sum, x, w) _mm_dpbusd_epi32(sum, x, w)
DEPTHWISE(depthwise_64, 4, __m512i, _mm512, DEAL_512, SUM_512)
DEPTHWISE(depthwise_32, 2, __m256i, _mm256, DEAL_256, SUM_256)
DEPTHWISE(depthwise_16, 1, __m128i, _mm, DEAL_128, SUM_128)
#define BLOCKS(DO) DO(64) DO(32) DO(16)
DEPTHWISE_OVER(BLOCKS)

#define TIER_HAS_REQUANTIZE

#include "loops.h"

/* What of an epilogue all outputs share. */
typedef struct {
    __m512 low, high, ratio, residual_ratio;
    __m512i residual_zero;
    __m512i zero, least, most; /* of int16 and int8 codes */
} shared512;

/* Sixteen outputs, which lack a zero point and the last limits. values: of the residual addition, if it `adds`; its
 * operands are summed as whole numbers, which takes fewer of the instructions that only half of the units can do. */
INLINE __m512i codes_of(const bool adds, __m512i sums, __m512i bias, __m512 multiplier, __m128i values,
                        const shared512 *s) {
    enum { WHOLE = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
    const __m512 exact = _mm512_min_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(ADD(sums, bias)), multiplier), s->high);
    if (!adds) return _mm512_cvtps_epi32(exact);
    const __m512 code = _mm512_roundscale_ps(_mm512_max_ps(exact, s->low), WHOLE);
    const __m512 centred = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_cvtepi8_epi32(values), s->residual_zero));
    return ADD(_mm512_cvtps_epi32(_mm512_mul_ps(code, s->ratio)),
               _mm512_cvtps_epi32(_mm512_mul_ps(centred, s->residual_ratio)));
}

INLINE shared512 shared_of(const bool adds, const msq_epilogue *e) {
    const int32_t zero = adds ? e->sum_zero : e->zero;
    return (shared512){
        .low = _mm512_set1_ps(e->low),
        .high = _mm512_set1_ps(e->high),
        .ratio = _mm512_set1_ps(e->ratio),
        .residual_ratio = _mm512_set1_ps(e->residual_ratio),
        .residual_zero = _mm512_set1_epi32(e->residual_zero),
        .zero = _mm512_set1_epi16((short)zero),
        .least = _mm512_set1_epi8((char)(adds ? e->sum_low : (int32_t)e->low + zero)),
        .most = _mm512_set1_epi8((char)(adds ? e->sum_high : (int32_t)e->high + zero)),
    };
}

/* The codes of four registers of sums: saturating packs do the clamp of what is far outside, and interleave the parts of
 * the registers, which the last permutation takes back. */
INLINE void store_codes(const bool adds, const __m512i *sums, const __m512i *bias, const __m512 *multiplier,
                        const int8_t *values, const shared512 *shared, int8_t *y) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i code[4];
    UNROLL for (int i = 0; i < 4; i++) {
        __m128i other = _mm_setzero_si128();
        if (adds) memcpy(&other, values + i * LANES, sizeof other);
        code[i] = codes_of(adds, sums[i], bias[i], multiplier[i], other, shared);
    }
    const __m512i one = _mm512_adds_epi16(_mm512_packs_epi32(code[0], code[1]), shared->zero);
    const __m512i two = _mm512_adds_epi16(_mm512_packs_epi32(code[2], code[3]), shared->zero);
    const __m512i codes = _mm512_min_epi8(_mm512_packs_epi16(one, two), shared->most);
    STORE(y, _mm512_permutexvar_epi32(order, _mm512_max_epi8(codes, shared->least)));
}

/* Four registers at a time are 64 outputs of a row, or rows of 32 or 16 outputs that follow one another. What is left goes
 * by single registers. */
INLINE void requantize_by(const bool adds, const int32_t *sums, size_t sums_step, int32_t rows, int32_t count,
                          const msq_epilogue *e, int8_t *y, size_t step) {
    enum { FOUR = 4 * LANES };
    const shared512 shared = shared_of(adds, e);
    const bool joined = (count == LANES || count == 2 * LANES) && step == (size_t)count && sums_step == step;
    const int32_t width = joined ? FOUR : count, by = width / count;
    const int8_t *const values = e->values;
    int32_t n = 0;
    for (; n + FOUR <= width; n += FOUR) {
        const int32_t *sum = sums + n;
        size_t at = (size_t)n;
        __m512i bias[4];
        __m512 multiplier[4];
        UNROLL for (int i = 0; i < 4; i++) {
            const int32_t output = joined ? i * LANES & (count - 1) : n + i * LANES;
            bias[i] = LOAD(e->bias + output);
            multiplier[i] = _mm512_loadu_ps(e->multiplier + output);
        }
        for (int32_t r = by; r <= rows; r += by, sum += (size_t)by * sums_step, at += (size_t)by * step) {
            const __m512i four[] = {LOAD(sum), LOAD(sum + LANES), LOAD(sum + 2 * LANES), LOAD(sum + 3 * LANES)};
            store_codes(adds, four, bias, multiplier, adds ? values + at : NULL, &shared, y + at);
        }
    }
    const int32_t done = joined ? rows / by * by : 0;
    if (joined) n = done == rows ? count : 0;
    for (; n < count; n += LANES) {
        const __mmask16 mask = (__mmask16)(count - n < LANES ? (1u << (count - n)) - 1 : 0xffff);
        const __m512i bias = LOAD(e->bias + n);
        const __m512 multiplier = _mm512_loadu_ps(e->multiplier + n);
        const int32_t *sum = sums + (size_t)done * sums_step + n;
        size_t at = (size_t)done * step + (size_t)n;
        for (int32_t r = done; r < rows; r++, sum += sums_step, at += step) {
            const __m128i other = adds ? _mm_maskz_loadu_epi8(mask, values + at) : _mm_setzero_si128();
            const __m512i code = codes_of(adds, LOAD(sum), bias, multiplier, other, &shared);
            const __m256i half = _mm256_adds_epi16(_mm512_cvtsepi32_epi16(code), _mm512_castsi512_si256(shared.zero));
            const __m128i codes = _mm_min_epi8(_mm256_cvtsepi16_epi8(half), _mm512_castsi512_si128(shared.most));
            _mm_mask_storeu_epi8(y + at, mask, _mm_max_epi8(codes, _mm512_castsi512_si128(shared.least)));
        }
    }
}

/* Sums of an earlier tile become codes while products, which take half of the units, are made: 64 of them now and then,
 * for at once they would take all. */
typedef struct {
    shared512 shared;
    __m512i bias[4];
    __m512 multiplier[4];
    msq_unfinished left;
    int32_t step, next, apart; /* of the products */
} among512;

INLINE among512 among_of(const bool adds, const int panels, const msq_epilogue *e, const msq_unfinished *then, int32_t steps) {
    among512 a = {.shared = shared_of(adds, e), .left = *then, .apart = then->count ? steps / then->count : 0};
    UNROLL for (int i = 0; i < 4; i++) {
        a.bias[i] = LOAD(e->bias + i % panels * LANES);
        a.multiplier[i] = _mm512_loadu_ps(e->multiplier + i % panels * LANES);
    }
    return a;
}

INLINE void make_codes(const bool adds, among512 *a) {
    const int32_t *sums = a->left.sums;
    const __m512i four[] = {LOAD(sums), LOAD(sums + LANES), LOAD(sums + 2 * LANES), LOAD(sums + 3 * LANES)};
    store_codes(adds, four, a->bias, a->multiplier, a->left.values, &a->shared, a->left.y);
    a->left.count--;
    a->left.sums += 4 * LANES;
    a->left.y += ATOM;
    if (adds) a->left.values += ATOM;
}

INLINE void now_and_then(const bool adds, among512 *a) {
    if (a->step++ < a->next || a->left.count == 0) return;
    a->next += a->apart;
    make_codes(adds, a);
}

INLINE void tile_among_of(const bool adds, const int rows, const int panels, const uint8_t *const *x, const msq_run *runs,
                          int32_t run_count, const int8_t *weights, bool more, int32_t *out, const msq_epilogue *e,
                          const msq_unfinished *then) {
    int32_t steps = 0;
    for (int32_t run = 0; run < run_count; run++) steps += runs[run].groups;
    among512 a = among_of(adds, panels, e, then, steps);
    VEC sums[TIER_SUMS];
    UNROLL for (int i = 0; i < rows * panels; i++) sums[i] = more ? LOAD(out + i * LANES) : ZERO();
    for (int32_t run = 0; run < run_count; run++) {
        ptrdiff_t at = runs[run].offset;
        for (int32_t left = runs[run].groups; left > 0; left--, at += GROUP, weights += panels * ATOM) {
            now_and_then(adds, &a);
            VEC w[MAX_PANELS];
            UNROLL for (int p = 0; p < panels; p++) w[p] = LOAD_WEIGHTS(weights + p * ATOM);
            UNROLL for (int r = 0; r < rows; r++) {
                const VEC now = inputs_of(x[r] + at);
                UNROLL for (int p = 0; p < panels; p++)
                    sums[r * panels + p] = _mm512_dpbusd_epi32(sums[r * panels + p], now, w[p]);
            }
        }
    }
    UNROLL for (int i = 0; i < rows * panels; i++) STORE(out + i * LANES, sums[i]);
    while (a.left.count > 0) make_codes(adds, &a);
}

static void tile_among(const uint8_t *const *x, const msq_run *runs, int32_t run_count, const int8_t *weights, bool more,
                       int32_t *sums, const msq_epilogue *e, const msq_unfinished *then) {
    if (then->values)
        tile_among_of(true, 8, 2, x, runs, run_count, weights, more, sums, e, then);
    else
        tile_among_of(false, 8, 2, x, runs, run_count, weights, more, sums, e, then);
}

/* A pixel's inputs are fetched once for the three taps that it is under: a tile of one panel would wait for them. */
INLINE void slide_by(const bool adds, const int rows, const msq_slide *s, const uint8_t *x, const int8_t *weights,
                     int32_t *out, const msq_epilogue *e, const msq_unfinished *then) {
    among512 a = among_of(adds, 1, e, then, s->lines * s->groups);
    VEC sums[16];
    UNROLL for (int r = 0; r < rows; r++) sums[r] = ZERO();
    const ptrdiff_t tap = (ptrdiff_t)s->groups * ATOM, pixel = s->pixel;
    for (int32_t line = 0; line < s->lines; line++, x += s->down, weights += 2 * tap) {
        for (int32_t group = 0; group < s->groups; group++, weights += ATOM) {
            now_and_then(adds, &a);
            const VEC first = LOAD_WEIGHTS(weights), second = LOAD_WEIGHTS(weights + tap);
            const VEC third = LOAD_WEIGHTS(weights + 2 * tap);
            const uint8_t *in = x + group * GROUP;
            UNROLL for (int r = 0; r < rows + 2; r++, in += pixel) {
                const VEC now = inputs_of(in);
                if (r < rows) sums[r] = _mm512_dpbusd_epi32(sums[r], now, first);
                if (r > 0 && r <= rows) sums[r - 1] = _mm512_dpbusd_epi32(sums[r - 1], now, second);
                if (r > 1) sums[r - 2] = _mm512_dpbusd_epi32(sums[r - 2], now, third);
            }
        }
    }
    UNROLL for (int r = 0; r < rows; r++) STORE(out + r * LANES, sums[r]);
    while (a.left.count > 0) make_codes(adds, &a);
}

static void slide(int32_t rows, const msq_slide *s, const uint8_t *x, const int8_t *weights, int32_t *sums,
                  const msq_epilogue *e, const msq_unfinished *then) {
    if (then->values)
        if (rows == 16)
            slide_by(true, 16, s, x, weights, sums, e, then);
        else
            slide_by(true, 12, s, x, weights, sums, e, then);
    else if (rows == 16)
        slide_by(false, 16, s, x, weights, sums, e, then);
    else
        slide_by(false, 12, s, x, weights, sums, e, then);
}

static bool supported(void) {
    const msq_x86 found = msq_x86_features();
    return HAS_AVX512(found) && HAS_AVX512_VNNI(found) && HAS_GFNI(found);
}

const msq_tier msq_avx512vnni = {
    "avx512vnni", "AVX512 F, BW, VL, VNNI and GFNI", supported, FLIP, 4, {8, 8, 8, 6},
    copy, prepare, unpack, tile, tile_among, slide, fused, arrange, depthwise, requantize, combine, quantize, maximum,
};
