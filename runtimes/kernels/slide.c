/* Layers of one panel, and of windows three taps wide: the tier slides over the lines of y. */
#include "layer.h"

enum {
    MOST = 16,           /* pixels of a line that a tier slides over at once, */
    LEAST = 12,          /* or the fewest */
    STAGED_BYTES = 8192, /* of padded lines: they stay in the first cache, with what is read and written beside them */
};

/* Groups of a tap, and where it is filled up to whole ones: none more than lines of taps have that begin one. */
static int32_t groups_of(const msq_layer_spec *s) { return msq_ceil(s->inputs, GROUP); }

bool msq_can_slide(const msq_layer *layer, int32_t width) {
    const msq_layer_spec *s = &layer->spec;
    return layer->tier->slide && s->bits && width >= LEAST && s->outputs <= PANEL && msq_is_joined(s) &&
           s->kernel[1] == 3 && s->stride[1] == 1 && s->kernel[0] <= MOST_RUNS &&
           s->kernel[0] * 3 * groups_of(s) <= PART_BYTES / ATOM && 3 * groups_of(s) == msq_ceil(3 * s->inputs, GROUP) &&
           (s->inputs % GROUP == 0 || s->inputs < GROUP);
}

/* What a thread has of its own. */
typedef struct {
    int8_t *weights, *flat;
    int32_t *sums;
    uint8_t *lines;
} lane;

/* Lay a thread's things out from `base`, and return the bytes of them. */
static size_t lay_lane(const msq_work *w, uint8_t *base, lane *own) {
    const msq_layer_spec *s = &w->layer->spec;
    const size_t weights = (size_t)s->kernel[0] * 3 * (size_t)groups_of(s) * ATOM, sums = 2 * MOST * PANEL * sizeof *own->sums;
    const size_t flat = w->realigned ? (size_t)(w->layer->row_groups + 1) * ATOM : 0;
    const size_t lines = (size_t)msq_lines_of(w, w->slice) * (size_t)w->padded_width * (size_t)w->padded_channels;
    if (base)
        *own = (lane){
            .weights = (int8_t *)base,
            .flat = (int8_t *)base + weights,
            .sums = (int32_t *)(base + weights + flat),
            .lines = base + weights + flat + sums,
        };
    return weights + flat + sums + msq_rounded(lines, ATOM);
}

void msq_plan_slide(msq_work *w, int32_t threads) {
    const int64_t line = (int64_t)w->padded_width * w->padded_channels;
    w->slice = 1;
    while (w->slice < w->height && msq_lines_of(w, w->slice + 1) * line <= STAGED_BYTES) w->slice++;
    w->thread_bytes = lay_lane(w, NULL, NULL);
    w->line_parts = threads;
}

/* Part: a share of the lines of y, over all images. A slice of them at a time, the lines that it reads are staged. */
static void slide_part(void *context, int32_t part, int32_t thread) {
    msq_work *w = context;
    const msq_layer *layer = w->layer;
    const msq_tier *tier = layer->tier;
    const msq_layer_spec *s = &layer->spec;
    const ptrdiff_t pixel = w->padded_channels, line = w->padded_width * pixel;
    const msq_slide slide = {s->kernel[0], groups_of(s), s->dilation[0] * line, pixel};
    const bool is_whole = w->call->y && s->outputs == PANEL; /* sums may wait: they become codes during the next tile */
    const int32_t most = tier->rows[0];
    lane own = {0};
    lay_lane(w, w->scratch + (size_t)thread * w->thread_bytes, &own);
    if (w->realigned)
        msq_realign(w, 0, own.flat, own.weights, ATOM);
    else
        tier->unpack(&layer->grid, s->packed, 0, layer->row_groups, own.weights, ATOM);
    msq_run runs[MOST_RUNS];
    for (int32_t y = 0; y < slide.lines; y++) runs[y] = (msq_run){y * slide.down, 3 * slide.groups};
    msq_epilogue e = msq_epilogue_of(w, 0);
    msq_unfinished then = {0};
    int32_t *sums = own.sums;
    const int32_t lines = w->height * w->images, per_part = msq_ceil(lines, w->line_parts);
    const int32_t end = (part + 1) * per_part < lines ? (part + 1) * per_part : lines;
    for (int32_t first = part * per_part, count; first < end; first += count) {
        const int32_t image = first / w->height, y = first % w->height;
        count = end - first < w->slice ? end - first : w->slice;
        if (count > w->height - y) count = w->height - y;
        msq_stage_lines(w, image, y * s->stride[0], msq_lines_of(w, count), own.lines);
        for (int32_t i = 0; i < count; i++) {
            const uint8_t *x = own.lines + i * s->stride[0] * line;
            int64_t row = (int64_t)(first + i) * w->width;
            for (int32_t left = w->width, rows; left > 0; left -= rows, row += rows, x += rows * pixel) {
                rows = left >= MOST ? MOST : left >= LEAST ? LEAST : left < most ? left : most;
                if (rows >= LEAST) {
                    tier->slide(rows, &slide, x, own.weights, sums, &e, &then);
                    then.count = 0;
                } else {
                    const uint8_t *each[LEAST];
                    for (int32_t r = 0; r < rows; r++) each[r] = x + r * pixel;
                    tier->tile(&layer->grid, rows, 1, each, runs, slide.lines, own.weights, false, sums);
                }
                if (rows < LEAST || !is_whole) {
                    msq_finish(w, &e, sums, PANEL, row, rows, 0, s->outputs);
                    continue;
                }
                const size_t at = ((size_t)w->image * (size_t)w->height * (size_t)w->width + (size_t)row) * PANEL;
                const msq_residual *r = w->call->residual;
                then = (msq_unfinished){rows * PANEL / ATOM, sums, r ? r->values + at : NULL, w->call->y + at};
                sums = sums == own.sums ? own.sums + MOST * PANEL : own.sums;
            }
        }
    }
    e.values = then.values;
    tier->requantize(then.sums, PANEL, then.count * ATOM / PANEL, PANEL, &e, then.y, PANEL);
}

void msq_run_slide(msq_work *w, msq_threads *threads) { msq_share(threads, w->line_parts, slide_part, w); }
