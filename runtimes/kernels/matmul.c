/* Products of two tensors of codes: the second one is brought into the order of unpacked weights, panels by panels, and
 * is multiplied as a layer's are. */
#include <string.h>

#include "layer.h"

enum { CHUNK_ROWS = 384 /* of p: they stay in the second cache */ };

/* One call. */
typedef struct {
    const msq_product *spec;
    const msq_tier *tier;
    const int8_t *p, *q;
    int8_t *y;
    int32_t groups;             /* of four inputs */
    int32_t chunk_rows, chunks; /* of a matrix of p */
    uint8_t *scratch;
    size_t thread_bytes;
} work;

/* What a thread has of its own. */
typedef struct {
    int8_t *weights;
    int32_t *sums;
    int32_t *row_bias;
    const uint8_t **x; /* rows, which follow each other in `rows`, and behind them one of ones */
    uint8_t *rows;
} lane;

/* Lay a thread's things out from `base`, and return the bytes of them. */
static size_t lay_lane(const work *w, uint8_t *base, lane *own) {
    const size_t rows = (size_t)w->chunk_rows, inputs = (size_t)w->groups * GROUP;
    const size_t sizes[] = {
        (size_t)w->groups * MAX_PANELS * ATOM, MOST_ROWS * TILE_OUTPUTS * sizeof *own->sums,
        rows * sizeof *own->row_bias, (rows + 1) * sizeof *own->x, (rows + 1) * inputs,
    };
    uint8_t *at[sizeof sizes / sizeof *sizes];
    size_t bytes = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        at[i] = base ? base + bytes : NULL;
        bytes += msq_rounded(sizes[i], ATOM);
    }
    *own = (lane){(int8_t *)at[0], (int32_t *)at[1], (int32_t *)at[2], (const uint8_t **)at[3], at[4]};
    return bytes;
}

/* Σ (p − p_zero)(q − q_zero) = Σ x · q − (p_zero + flip) · Σ q − q_zero · Σ (p − p_zero), with x = p + flip: the second
 * term is of a column, and becomes its bias; the third is of a row, and is what its sums begin with. */
static void lay_rows(const work *w, const lane *own, const int8_t *p, int32_t count) {
    const size_t k = (size_t)w->spec->k, inputs = (size_t)w->groups * GROUP;
    for (int32_t row = 0; row < count; row++, p += k) {
        uint8_t *to = own->rows + (size_t)row * inputs;
        own->x[row] = to;
        w->tier->copy((const uint8_t *)p, k, to);
        memset(to + k, 0, inputs - k);
        int32_t sum = 0;
        for (size_t i = 0; w->spec->q_zero && i < k; i++) sum += p[i];
        own->row_bias[row] = -w->spec->q_zero * (sum - w->spec->k * w->spec->p_zero);
    }
    own->x[count] = memset(own->rows + (size_t)count * inputs, 1, inputs);
}

/* Bring `columns` columns of q from `first` on into the order of weights, filled up with zeros to whole panels. */
static void arrange(const work *w, const int8_t *q, int32_t first, int32_t columns, int32_t panels, int8_t *weights) {
    const int32_t n = w->spec->n, k = w->spec->k;
    for (int32_t at = 0; at < w->groups * GROUP; at += GROUP) {
        for (int32_t panel = 0; panel < panels; panel++, weights += ATOM) {
            const int32_t column = panel * PANEL, width = columns - column < PANEL ? columns - column : PANEL;
            int8_t lines[GROUP][PANEL] = {{0}};
            for (int32_t i = 0; i < GROUP && at + i < k; i++) {
                const int8_t *line = q + (size_t)(at + i) * (size_t)n + first + column;
                if (width == PANEL) /* a copy whose length the compiler knows */
                    memcpy(lines[i], line, PANEL);
                else
                    memcpy(lines[i], line, (size_t)width);
            }
            for (int output = 0; output < PANEL; output++)
                for (int i = 0; i < GROUP; i++) weights[output * GROUP + i] = lines[i][output];
        }
    }
}

/* Columns first … first + columns − 1 of y, of `rows` rows. */
static void multiply(const work *w, const lane *own, int32_t first, int32_t columns, int32_t panels, int32_t rows,
                     int8_t *y) {
    const msq_product *s = w->spec;
    const msq_tier *tier = w->tier;
    const msq_grid grid = {.bits = 8, .a = 1, .z = 128};
    const msq_run run = {0, w->groups};
    const bool begun = s->q_zero != 0;
    int32_t bias[TILE_OUTPUTS];
    float multiplier[TILE_OUTPUTS];
    tier->tile(&grid, 1, panels, own->x + rows, &run, 1, own->weights, false, own->sums);
    for (int32_t i = 0; i < panels * PANEL; i++) {
        bias[i] = -(s->p_zero + tier->flip) * own->sums[i];
        multiplier[i] = s->multiplier;
    }
    const msq_epilogue e = {
        .bias = bias,
        .multiplier = multiplier,
        .low = (float)(s->low - s->zero),
        .high = (float)(s->high - s->zero),
        .zero = s->zero,
    };
    const int32_t most = tier->rows[panels - 1];
    for (int32_t row = 0, now; row < rows; row += now) {
        now = rows - row < most ? rows - row : most;
        int32_t *to = own->sums;
        for (int32_t r = 0; begun && r < now; r++)
            for (int32_t i = 0; i < panels * PANEL; i++) *to++ = own->row_bias[row + r];
        tier->tile(&grid, now, panels, own->x + row, &run, 1, own->weights, begun, own->sums);
        tier->requantize(own->sums, (size_t)(panels * PANEL), now, columns, &e,
                         y + (size_t)row * (size_t)s->n + (size_t)first, (size_t)s->n);
    }
}

/* Part: a chunk of rows of a matrix. */
static void multiply_part(void *context, int32_t part, int32_t thread) {
    const work *w = context;
    const msq_product *s = w->spec;
    const size_t matrix = (size_t)(part / w->chunks), begin = (size_t)(part % w->chunks) * (size_t)w->chunk_rows;
    const size_t row = matrix * (size_t)s->m + begin;
    const int32_t left = s->m - (int32_t)begin, rows = left < w->chunk_rows ? left : w->chunk_rows;
    if (rows <= 0) return;
    lane own;
    lay_lane(w, w->scratch + (size_t)thread * w->thread_bytes, &own);
    lay_rows(w, &own, w->p + row * (size_t)s->k, rows);
    const int32_t most = w->tier->panels * PANEL;
    for (int32_t first = 0, columns; first < s->n; first += columns) {
        columns = s->n - first < most ? s->n - first : most;
        const int32_t panels = msq_ceil(columns, PANEL);
        arrange(w, w->q + matrix * (size_t)s->k * (size_t)s->n, first, columns, panels, own.weights);
        multiply(w, &own, first, columns, panels, rows, w->y + row * (size_t)s->n);
    }
}

/* Decide how a call is done; return the bytes of its workspace. */
static msq_status plan(work *w, const msq_product *s, const msq_threads *threads, size_t *bytes) {
    const int32_t most = 1 << 24, zeros[] = {s->p_zero, s->q_zero, s->zero, s->low, s->high};
    if (s->batch < 1 || s->m < 1 || s->k < 1 || s->n < 1 || s->batch > most || s->m > most || s->n > most ||
        s->k > INT32_MAX / (255 * 255))
        return msq_fail(MSQ_INVALID, "a product of %d matrices, %d × %d by %d × %d", s->batch, s->m, s->k, s->k, s->n);
    for (size_t i = 0; i < sizeof zeros / sizeof *zeros; i++)
        if (zeros[i] < -128 || zeros[i] > 127) return msq_fail(MSQ_INVALID, "a zero point or a limit of %d", zeros[i]);
    *w = (work){.spec = s, .tier = msq_current_tier()};
    if (w->tier == NULL) return MSQ_UNSUPPORTED;
    const int32_t count = msq_thread_count(threads);
    w->groups = msq_ceil(s->k, GROUP);
    w->chunks = msq_ceil(s->m, CHUNK_ROWS);
    /* More chunks where threads would not end together. */
    const int64_t parts = (int64_t)s->batch * w->chunks;
    if (parts % count && parts < 4 * count) w->chunks *= count;
    if ((int64_t)s->batch * w->chunks > INT32_MAX)
        return msq_fail(MSQ_INVALID, "%d matrices of %d rows are too many for one call", s->batch, s->m);
    w->chunk_rows = msq_ceil(s->m, w->chunks);
    lane own;
    w->thread_bytes = lay_lane(w, NULL, &own);
    *bytes = w->thread_bytes * (size_t)count;
    return MSQ_OK;
}

msq_status msq_matmul_workspace(const msq_product *spec, const msq_threads *threads, size_t *bytes) {
    work w;
    return plan(&w, spec, threads, bytes);
}

msq_status msq_matmul(const msq_product *spec, const int8_t *p, const int8_t *q, int8_t *y, void *workspace,
                      size_t workspace_bytes, msq_threads *threads) {
    work w;
    size_t bytes = 0;
    const msq_status status = plan(&w, spec, threads, &bytes);
    if (status) return status;
    if (workspace == NULL || workspace_bytes < bytes || (uintptr_t)workspace % ATOM)
        return msq_fail(MSQ_INVALID, "a workspace of %zu bytes; %zu at a multiple of 64 are needed",
                        workspace ? workspace_bytes : 0, bytes);
    w.p = p;
    w.q = q;
    w.y = y;
    w.scratch = workspace;
    msq_share(threads, spec->batch * w.chunks, multiply_part, &w);
    return MSQ_OK;
}
