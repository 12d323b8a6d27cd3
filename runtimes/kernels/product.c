/* Products of rows and packed panels: convolutions as they lie in their map, linear layers, and what is gathered. */
#include <string.h>

#include "layer.h"

enum {
    CHUNK_ROWS = 396,     /* rows whose sums are kept while a panel set's weights are unpacked part by part */
    WHOLE_ROWS = 1056,    /* of a chunk whose sums need not be kept */
    KEPT_SUMS = 1024,     /* that become codes together: they stay in the first cache until then */
    ROW_STEP = 12,        /* what chunks are a multiple of: whole tiles. Two of 396 are a map of 28 × 28 */
    FAR_BYTES = 1 << 15,  /* packed weights larger than this are fetched ahead of their use: other layers put them out */
};

/* What a thread has of its own. */
typedef struct {
    int64_t *chunk; /* whose rows `x` are of: a number over all groups, or −1 */
    const uint8_t **x;
    int32_t *sums;
    int8_t *weights, *flat;
    uint8_t *gathered;
} lane;

/* Groups that a line of taps takes where it begins one. */
static int32_t line_groups(const msq_layer_spec *s) { return msq_ceil((int64_t)s->kernel[1] * s->inputs, GROUP); }

bool msq_can_realign(const msq_layer *layer) {
    const msq_layer_spec *s = &layer->spec;
    return msq_is_joined(s) && s->kernel[0] <= MOST_RUNS &&
           (int64_t)s->kernel[0] * line_groups(s) <= PART_BYTES / (ATOM * layer->tier->panels);
}

/* A gathered row: zeros, the inputs of whole groups, zeros, for a panel may begin and end within a block. */
static size_t gathered_bytes(const msq_layer *layer) {
    return 2 * BLOCK + msq_rounded((size_t)layer->row_groups * GROUP, BLOCK);
}

/* Lay a thread's things out from `base`, and return the bytes of them. */
static size_t lay_lane(const msq_work *w, uint8_t *base, lane *own) {
    const size_t rows = (size_t)w->chunk_rows, inputs = (size_t)w->layer->spec.inputs;
    const size_t outputs = w->fused ? TILE_OUTPUTS : (size_t)w->set_panels * PANEL;
    const size_t sums = rows * outputs, kept = KEPT_SUMS + MOST_ROWS * outputs;
    const size_t sizes[] = {
        sizeof *own->chunk, w->fused ? 0 : PART_BYTES, (w->whole && kept < sums ? kept : sums) * sizeof *own->sums,
        rows * sizeof *own->x, w->gathered ? rows * gathered_bytes(w->layer) : w->copied ? rows * inputs : 0,
        w->realigned ? (size_t)(w->layer->row_groups + 1) * ATOM : 0, /* one more is read */
    };
    uint8_t *at[sizeof sizes / sizeof *sizes];
    size_t bytes = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        at[i] = base ? base + bytes : NULL;
        bytes += msq_rounded(sizes[i], ATOM);
    }
    *own = (lane){
        .chunk = (int64_t *)at[0],
        .weights = (int8_t *)at[1],
        .sums = (int32_t *)at[2],
        .x = (const uint8_t **)at[3],
        .gathered = at[4],
        .flat = (int8_t *)at[5],
    };
    return bytes;
}

static lane lane_of(const msq_work *w, int32_t thread) {
    lane own;
    lay_lane(w, w->scratch + (size_t)thread * w->thread_bytes, &own);
    return own;
}

msq_status msq_plan_product(msq_work *w, int32_t threads) {
    const msq_layer *layer = w->layer;
    const int32_t groups = layer->spec.groups, size = layer->spec.outputs / groups;
    /* A group's outputs may begin within a panel: as many as a group can touch. */
    const int32_t panels = msq_ceil(groups == 1 ? size : size + PANEL - 1, PANEL);
    w->set_panels = w->fused ? 1 : panels < layer->tier->panels ? panels : layer->tier->panels;
    w->panel_sets = msq_ceil(panels, w->set_panels);
    w->whole = w->realigned || layer->row_groups <= PART_BYTES / (ATOM * w->set_panels);
    w->chunks = msq_ceil(w->rows, w->whole && !w->gathered ? WHOLE_ROWS : CHUNK_ROWS);
    /* More chunks where threads would not end together. */
    const int64_t parts = (int64_t)groups * w->panel_sets * w->chunks;
    if (parts > INT32_MAX / 2)
        return msq_fail(MSQ_INVALID, "%lld pixels in %d groups are too many for one call", (long long)w->rows, groups);
    if (!w->fused && parts % threads && parts < 4 * threads) w->chunks = msq_ceil(w->chunks, threads) * threads;
    w->chunk_rows = (int32_t)msq_rounded((size_t)msq_ceil(w->rows, w->chunks), ROW_STEP);
    if (w->chunk_rows > w->rows) w->chunk_rows = (int32_t)w->rows;
    w->chunks = msq_ceil(w->rows, w->chunk_rows);
    lane own;
    w->thread_bytes = lay_lane(w, NULL, &own);
    return MSQ_OK;
}

/* Where the fields of consecutive rows begin, `offset` bytes into their pixels. */
static void fields(const msq_work *w, size_t offset, int64_t row, int32_t count, const uint8_t **x) {
    const msq_layer_spec *s = &w->layer->spec;
    const int32_t width = w->width;
    const int64_t line = row / width;
    const size_t step = (size_t)s->stride[1] * (size_t)w->padded_channels;
    const ptrdiff_t down = (ptrdiff_t)s->stride[0] * w->padded_width * w->padded_channels;
    int64_t image = line / w->height, up = line % w->height, along = row % width;
    const uint8_t *from = msq_field(w, image, up, along) + offset;
    while (count > 0) {
        const int32_t now = width - along < count ? (int32_t)(width - along) : count;
        for (int32_t i = 0; i < now; i++) x[i] = from + (size_t)i * step;
        x += now;
        count -= now;
        from += down - (ptrdiff_t)along * (ptrdiff_t)step;
        along = 0;
        if (++up < w->height) continue;
        up = 0;
        from = msq_field(w, ++image, 0, 0) + offset;
    }
}

/* Bring a row's inputs, which may lie apart, together and fill them up to whole blocks; return where they are. */
static const uint8_t *gather(const msq_work *w, const uint8_t *from, uint8_t *to) {
    const msq_layer_spec *s = &w->layer->spec;
    const size_t channels = (size_t)w->padded_channels, inputs = (size_t)s->inputs;
    uint8_t *const end = to + gathered_bytes(w->layer), *const row = to + BLOCK;
    memset(to, 0, BLOCK);
    to = row;
    if (!w->staged) { /* a single pixel's, as they are */
        w->layer->tier->copy(from, inputs, to);
        to += inputs;
    }
    const bool joined = msq_is_joined(s);
    const int32_t pieces = joined ? 1 : s->kernel[1];
    const size_t piece = joined ? (size_t)s->kernel[1] * inputs : inputs;
    for (int32_t y = 0; w->staged && y < s->kernel[0]; y++) {
        const uint8_t *line = from + (size_t)(y * s->dilation[0]) * (size_t)w->padded_width * channels;
        for (int32_t x = 0; x < pieces; x++, line += (size_t)s->dilation[1] * channels, to += piece)
            /* By sixteen: what is too much is overwritten, and there is room behind both. */
            for (size_t i = 0; i < piece; i += 16) memcpy(to + i, line + i, 16);
    }
    memset(to, 0, (size_t)(end - to));
    return row;
}

/* Copy a chunk's rows, at once where one follows the other. */
static void copy_rows(const msq_work *w, const lane *own, int32_t count) {
    const msq_layer_spec *s = &w->layer->spec;
    const size_t inputs = (size_t)s->inputs;
    const bool is_one_piece = msq_is_one_piece(s);
    if (is_one_piece) w->layer->tier->copy(own->x[0], (size_t)count * inputs, own->gathered);
    const uint64_t flip = w->layer->tier->flip * 0x0101010101010101u;
    for (int32_t row = 0; row < count; row++) {
        uint8_t *to = own->gathered + (size_t)row * inputs;
        const uint8_t *from = own->x[row];
        own->x[row] = to;
        if (is_one_piece) continue;
        if (inputs >= ATOM) {
            w->layer->tier->copy(from, inputs, to);
            continue;
        }
        for (size_t i = 0; i < inputs; i += 8) {
            uint64_t eight;
            memcpy(&eight, from + i, sizeof eight);
            eight ^= flip;
            memcpy(to + i, &eight, sizeof eight);
        }
    }
}

/* Let a thread's x be the rows of a chunk of a group. */
static void lay_rows(const msq_work *w, const lane *own, int32_t group, int32_t chunk, int32_t count) {
    const int64_t number = (int64_t)group * w->chunks + chunk;
    if (*own->chunk == number) return;
    *own->chunk = number;
    fields(w, (size_t)group * (size_t)w->layer->spec.inputs, (int64_t)chunk * w->chunk_rows, count, own->x);
    if (w->copied) copy_rows(w, own, count);
    for (int32_t row = 0; w->gathered && row < count; row++)
        own->x[row] = gather(w, own->x[row], own->gathered + (size_t)row * gathered_bytes(w->layer));
}

/* The outputs of a group that lie in panels first … first + panels − 1; skip: of the panels' other outputs before. */
typedef struct {
    int32_t panel, panels, output, count, skip;
} outputs_of;

static outputs_of outputs_in(const msq_work *w, int32_t group, int32_t first, int32_t panels) {
    const int32_t size = w->layer->spec.outputs / w->layer->spec.groups, begin = group * size;
    outputs_of o = {.panel = first, .panels = panels, .output = first * PANEL, .count = panels * PANEL};
    if (o.output < begin) {
        o.skip = begin - o.output;
        o.output = begin;
        o.count -= o.skip;
    }
    if (o.output + o.count > begin + size) o.count = begin + size - o.output;
    return o;
}

/* The next part of a row's runs, of at most `most` groups; run and done say where the last one ended. */
static int32_t next_runs(const msq_work *w, int32_t most, int32_t *run, int32_t *done, msq_run *runs, int32_t *groups) {
    int32_t count = 0;
    for (*groups = 0; *run < w->run_count && *groups < most; count++) {
        const msq_run *whole = &w->runs[*run];
        const int32_t left = whole->groups - *done, taken = left < most - *groups ? left : most - *groups;
        runs[count] = (msq_run){whole->offset + (ptrdiff_t)*done * GROUP, taken};
        *groups += taken;
        *done += taken;
        if (*done < whole->groups) continue;
        *done = 0;
        *run += 1;
    }
    return count;
}

/* Which cache they are fetched into. What x86's instruction for the second one asked for was not there in time. */
#if defined(__x86_64__)
enum { CACHE = 3 /* the first */ };
#else
enum { CACHE = 2 };
#endif

/* Packed weights that are asked for while others are multiplied: `lines` of 64 bytes of each of some panels. */
typedef struct {
    const uint8_t *at;
    size_t lines, left, step;
    int32_t panels;
} ahead;

static ahead ahead_of(const msq_layer *layer, size_t first, int32_t groups, int32_t panels) {
    const size_t block = (size_t)layer->grid.bits * ATOM, begin = first / GROUPS * block;
    ahead a = {.lines = (size_t)msq_ceil(groups, GROUPS) * (size_t)layer->grid.bits};
    a.left = a.lines;
    a.step = (size_t)layer->row_groups / GROUPS * block;
    a.at = layer->spec.packed + begin;
    const bool is_far = layer->spec.packed_bytes > FAR_BYTES;
    if (is_far && begin + (size_t)(panels - 1) * a.step + a.lines * ATOM <= layer->spec.packed_bytes) a.panels = panels;
    return a;
}

static void fetch(ahead *a, size_t lines) {
    while (lines > 0 && a->panels > 0) {
        const size_t now = lines < a->left ? lines : a->left;
        for (size_t i = 0; i < now; i++) __builtin_prefetch(a->at + i * ATOM, 0, CACHE);
        a->at += now * ATOM;
        lines -= now;
        a->left -= now;
        if (a->left) return;
        if (--a->panels == 0) return;
        a->at -= a->lines * ATOM;
        a->at += a->step;
        a->left = a->lines;
    }
}

void msq_realign(const msq_work *w, size_t first, int8_t *flat, int8_t *weights, size_t stride) {
    const msq_layer_spec *s = &w->layer->spec;
    w->layer->tier->unpack(&w->layer->grid, s->packed, first, w->layer->row_groups, flat, ATOM);
    const int32_t piece = w->slid ? s->inputs : s->kernel[1] * s->inputs, all = s->inputs * w->layer->taps;
    for (int32_t begin = 0; begin < all; begin += piece) {
        for (int32_t at = 0; at < piece; at += GROUP, weights += stride) {
            const int32_t k = begin + at, shift = k % GROUP * 8;
            const uint32_t kept = piece - at < GROUP ? (1u << (piece - at) * 8) - 1 : UINT32_MAX;
            const int8_t *from = flat + k / GROUP * ATOM;
            for (int n = 0; n < PANEL; n++) {
                uint32_t low, high;
                memcpy(&low, from + n * GROUP, GROUP);
                memcpy(&high, from + ATOM + n * GROUP, GROUP);
                const uint32_t four = (uint32_t)(((uint64_t)high << 32 | low) >> shift) & kept;
                memcpy(weights + n * GROUP, &four, GROUP);
            }
        }
    }
}

/* Rows of the next tile. The last one is not left with one or two, whose few sums wait for one another. */
static int32_t rows_now(int32_t left, int32_t most) {
    if (left <= most) return left;
    return most > 4 && left - most < 3 ? most - 2 : most;
}

/* Rows first … first + rows − 1 by the last part of all of a layer's two panels: sums of a tile are kept, and become codes
 * while the next one is multiplied. */
static void multiply_among(const msq_work *w, const lane *own, msq_epilogue *e, const msq_run *runs, int32_t count,
                           bool more, int64_t first_row, int32_t all) {
    enum { OUTPUTS = 2 * PANEL };
    const msq_tier *tier = w->layer->tier;
    const int32_t most = tier->rows[1];
    const size_t pixel = (size_t)w->image * (size_t)w->height * (size_t)w->width;
    const msq_residual *r = w->call->residual;
    msq_unfinished then = {0};
    for (int32_t row = 0, rows; row < all; row += rows) {
        rows = rows_now(all - row, most);
        int32_t *const sums = own->sums + (w->whole ? row / most % 2 * most : row) * OUTPUTS;
        if (rows < most) {
            tier->tile(&w->layer->grid, rows, 2, own->x + row, runs, count, own->weights, more, sums);
            msq_finish(w, e, sums, OUTPUTS, first_row + row, rows, 0, OUTPUTS);
            continue;
        }
        tier->tile_among(own->x + row, runs, count, own->weights, more, sums, e, &then);
        const size_t at = (pixel + (size_t)(first_row + row)) * OUTPUTS;
        then = (msq_unfinished){most * OUTPUTS / ATOM, sums, r ? r->values + at : NULL, w->call->y + at};
    }
    e->values = then.values;
    if (then.count) tier->requantize(then.sums, OUTPUTS, most, OUTPUTS, e, then.y, OUTPUTS);
}

/* Rows first … first + rows − 1 by a set of panels. */
static void multiply(const msq_work *w, const lane *own, const outputs_of *o, int64_t first_row, int32_t all) {
    const msq_layer *layer = w->layer;
    const msq_tier *tier = layer->tier;
    const int32_t panels = o->panels, most = tier->rows[panels - 1], most_groups = PART_BYTES / (ATOM * panels);
    const int32_t width = panels * PANEL;
    const size_t row_groups = (size_t)layer->row_groups, first = (size_t)o->panel * row_groups;
    const bool can_wait = w->call->y && layer->spec.outputs == 2 * PANEL && o->count == 2 * PANEL;
    msq_epilogue e = msq_epilogue_of(w, o->output);
    msq_run runs[MOST_RUNS];
    for (int32_t run = 0, done = 0, before = 0, groups; run < w->run_count; before += groups) {
        const int32_t count = next_runs(w, most_groups, &run, &done, runs, &groups);
        for (int32_t p = 0; p < panels; p++) {
            const size_t begin = first + (size_t)p * row_groups + (size_t)before, stride = (size_t)panels * ATOM;
            if (w->realigned)
                msq_realign(w, begin, own->flat, own->weights + p * ATOM, stride);
            else
                tier->unpack(&layer->grid, layer->spec.packed, begin, groups, own->weights + p * ATOM, stride);
        }
        const bool last = run == w->run_count;
        const int32_t left = last ? layer->row_groups : layer->row_groups - before - groups;
        ahead a = ahead_of(layer, first + (last ? (size_t)panels * row_groups : (size_t)(before + groups)),
                           left < most_groups ? left : most_groups, panels);
        const size_t lines = (size_t)msq_ceil((int64_t)a.lines * panels, msq_ceil(all, most));
        if (last && can_wait && tier->tile_among) {
            multiply_among(w, own, &e, runs, count, before > 0, first_row, all);
            continue;
        }
        for (int32_t row = 0, rows, finished = 0; row < all; row += rows) {
            rows = rows_now(all - row, most);
            fetch(&a, lines);
            int32_t *const kept = own->sums + (w->whole ? 0 : finished) * width, *const sums = kept + (row - finished) * width;
            tier->tile(&layer->grid, rows, panels, own->x + row, runs, count, own->weights, before > 0, sums);
            const int32_t unfinished = row + rows - finished;
            if (!last || (row + rows < all && unfinished * width < KEPT_SUMS)) continue;
            msq_finish(w, &e, kept + o->skip, width, first_row + finished, unfinished, o->output, o->count);
            finished = row + rows;
        }
    }
}

/* The same of few rows by one panel, unpacked in registers. */
static void multiply_fused(const msq_work *w, const lane *own, const outputs_of *o, int64_t first_row, int32_t all) {
    const msq_layer *layer = w->layer;
    const size_t first = (size_t)o->panel * (size_t)layer->row_groups, skip = first % GROUPS;
    const int32_t blocks = msq_ceil((int64_t)skip + layer->row_groups, GROUPS);
    const uint8_t *packed = layer->spec.packed + first / GROUPS * (size_t)layer->grid.bits * ATOM;
    msq_epilogue e = msq_epilogue_of(w, o->output);
    for (int32_t row = 0; row < all; row += 4) {
        const int32_t rows = all - row < 4 ? all - row : 4;
        const uint8_t *x[4];
        /* Three are four with the last twice, which costs less than code for three. */
        for (int32_t r = 0; r < 4; r++) x[r] = own->x[row + (r < rows ? r : rows - 1)] - skip * GROUP;
        layer->tier->fused(&layer->grid, rows == 3 ? 4 : rows, x, blocks, packed, own->sums);
        msq_finish(w, &e, own->sums + o->skip, PANEL, first_row + row, rows, o->output, o->count);
    }
}

/* Part: a set of panels over a chunk of rows of a group. Sets come first, so that a thread's rows stay. */
static void multiply_part(void *context, int32_t part, int32_t thread) {
    const msq_work *w = context;
    const msq_layer_spec *s = &w->layer->spec;
    const int32_t set = part % w->panel_sets, chunk = part / w->panel_sets % w->chunks;
    const int32_t group = part / w->panel_sets / w->chunks, size = s->outputs / s->groups;
    const int32_t first = group * size / PANEL + set * w->set_panels;
    const int32_t left = msq_ceil((int64_t)(group + 1) * size, PANEL) - first;
    const int64_t row = (int64_t)chunk * w->chunk_rows;
    const int32_t rows = w->rows - row < w->chunk_rows ? (int32_t)(w->rows - row) : w->chunk_rows;
    if (left <= 0 || rows <= 0) return;
    const lane own = lane_of(w, thread);
    lay_rows(w, &own, group, chunk, rows);
    const outputs_of o = outputs_in(w, group, first, left < w->set_panels ? left : w->set_panels);
    (w->fused ? multiply_fused : multiply)(w, &own, &o, row, rows);
}

/* Say where the four-input groups of a row lie, from its first byte. */
static void lay_runs(msq_work *w) {
    const msq_layer_spec *s = &w->layer->spec;
    w->run_count = 0;
    if (w->gathered) {
        w->runs[w->run_count++] = (msq_run){0, w->layer->row_groups};
        return;
    }
    const ptrdiff_t pixel = w->padded_channels, line = (ptrdiff_t)w->padded_width * pixel;
    const bool joined = msq_is_joined(s);
    for (int32_t y = 0; y < s->kernel[0]; y++) {
        const ptrdiff_t at = y * s->dilation[0] * line;
        if (joined) {
            w->runs[w->run_count++] = (msq_run){at, line_groups(s)};
            continue;
        }
        for (int32_t x = 0; x < s->kernel[1]; x++)
            w->runs[w->run_count++] = (msq_run){at + x * s->dilation[1] * pixel, s->inputs / GROUP};
    }
}

void msq_run_product(msq_work *w, msq_threads *threads) {
    lay_runs(w);
    for (int32_t thread = 0; thread < msq_thread_count(threads); thread++) *lane_of(w, thread).chunk = -1;
    msq_share(threads, w->layer->spec.groups * w->chunks * w->panel_sets, multiply_part, w);
}
