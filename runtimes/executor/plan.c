/* The arena: where buffers lie that are in use at different times, so that all fit in the least memory. */
#include <stdlib.h>
#include <string.h>

#include "graph.h"

static size_t rounded(size_t bytes) { return (bytes + ATOM - 1) / ATOM * ATOM; }

static bool overlap(const msq_buffer *a, const msq_buffer *b) { return a->first <= b->last && b->first <= a->last; }

/* What is placed first: the largest, or the earliest. */
static int by_size(const void *a, const void *b) {
    const msq_buffer *p = *(msq_buffer *const *)a, *q = *(msq_buffer *const *)b;
    if (p->bytes != q->bytes) return p->bytes < q->bytes ? 1 : -1;
    return p->first - q->first;
}

/* Place buffers in this order, each at the lowest offset where it disturbs none that is placed; return the end of all.
 * placed: room for pointers, kept sorted by offset. */
static size_t place(msq_buffer **order, int32_t count, msq_buffer **placed) {
    size_t end = 0;
    for (int32_t i = 0; i < count; i++) {
        msq_buffer *buffer = order[i];
        buffer->offset = 0;
        for (int32_t j = 0; j < i; j++) {
            if (!overlap(buffer, placed[j])) continue;
            if (buffer->offset + buffer->bytes <= placed[j]->offset) break;
            const size_t behind = rounded(placed[j]->offset + placed[j]->bytes);
            if (behind > buffer->offset) buffer->offset = behind;
        }
        int32_t at = i;
        for (; at > 0 && placed[at - 1]->offset > buffer->offset; at--) placed[at] = placed[at - 1];
        placed[at] = buffer;
        if (buffer->offset + buffer->bytes > end) end = buffer->offset + buffer->bytes;
    }
    return end;
}

size_t msq_live_bytes(const msq_graph *graph, int32_t node) {
    size_t live = 0;
    for (int32_t i = 0; i < graph->buffer_count; i++)
        if (graph->buffers[i].first <= node && node <= graph->buffers[i].last) live += graph->buffers[i].bytes;
    return live;
}

/* Have the buffer that ends last placed earlier: by how much is left to chance, which is the same every time. */
static void bring_forward(msq_buffer **order, int32_t count, uint32_t *chance) {
    int32_t at = 0;
    for (int32_t i = 1; i < count; i++)
        if (order[i]->offset + order[i]->bytes > order[at]->offset + order[at]->bytes) at = i;
    msq_buffer *const last = order[at];
    *chance = *chance * 1103515245u + 12345u;
    const int32_t to = (int32_t)((*chance >> 8) % (uint32_t)(at + 1));
    memmove(order + to + 1, order + to, (size_t)(at - to) * sizeof *order);
    order[to] = last;
}

msq_status msq_plan_arena(msq_graph *graph) {
    enum { MOST_TRIES = 128, MOST_STEPS = 1 << 27 };
    const int32_t count = graph->buffer_count;
    msq_buffer **order = calloc(3 * (size_t)count + 1, sizeof *order);
    if (order == NULL) return msq_fail(MSQ_MEMORY, "no memory for the plan of the arena");
    msq_buffer **const placed = order + count, **const best = placed + count;
    for (int32_t node = 0; node < graph->node_count; node++) {
        const size_t live = msq_live_bytes(graph, node);
        if (live > graph->arena_bound) graph->arena_bound = live;
    }
    for (int32_t i = 0; i < count; i++) order[i] = &graph->buffers[i];
    qsort(order, (size_t)count, sizeof *order, by_size);
    graph->arena_bytes = SIZE_MAX;
    uint32_t chance = 1;
    for (int64_t try = 0, steps = 0; try < MOST_TRIES && steps < MOST_STEPS; try++, steps += (int64_t)count * count) {
        const size_t end = place(order, count, placed);
        if (end < graph->arena_bytes) {
            graph->arena_bytes = end;
            memcpy(best, order, (size_t)count * sizeof *order);
        }
        if (graph->arena_bytes <= graph->arena_bound) break;
        bring_forward(order, count, &chance);
    }
    place(best, count, placed);
    free(order);
    return MSQ_OK;
}
