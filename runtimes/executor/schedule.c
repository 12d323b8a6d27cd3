/* What is decided before anything runs: which additions a layer does, and which buffer of the arena each tensor has. */
#include "schedule.h"

#include <stdlib.h>

#include "operators.h"

/* Let the later of an addition's two layers do it, where nobody else wants that layer's own result. */
static void fuse(msq_graph *graph, int32_t index) {
    msq_node *add = &graph->nodes[index];
    const msq_tensor *sum = msq_output_of(graph, add);
    int32_t best = -1, other = -1;
    for (int32_t i = 0; i < 2; i++) {
        const msq_tensor *input = msq_input_of(graph, add, i), *residual = msq_input_of(graph, add, 1 - i);
        const int32_t layer = input->producer;
        if (layer <= best || graph->nodes[layer].layer == NULL || graph->nodes[layer].addition >= 0) continue;
        if (input->uses > 1 || input->is_output || residual->producer >= layer) continue;
        /* Where one of them is repeated, a layer would make too little. */
        if (input->count != sum->count || residual->count != sum->count) continue;
        if (input->scale / sum->scale > MSQ_MOST_RATIO || residual->scale / sum->scale > MSQ_MOST_RATIO) continue;
        best = layer;
        other = add->inputs[1 - i];
    }
    if (best < 0) return;
    add->done_by = best;
    graph->nodes[best].addition = index;
    graph->nodes[best].residual = other;
}

static void find_last_uses(msq_graph *graph) {
    for (int32_t i = 0; i < graph->tensor_count; i++) graph->tensors[i].last_use = -1;
    for (int32_t i = 0; i < graph->node_count; i++) {
        const msq_node *node = &graph->nodes[i];
        if (node->done_by >= 0) continue;
        msq_made_by(graph, node)->last_use = i;
        for (int32_t k = 0; k < node->input_count; k++) msq_input_of(graph, node, k)->last_use = i;
        if (node->residual >= 0) graph->tensors[node->residual].last_use = i;
    }
}

static int32_t add_buffer(msq_graph *graph, size_t bytes, int32_t first, int32_t last) {
    graph->buffers[graph->buffer_count] = (msq_buffer){.bytes = bytes, .first = first, .last = last};
    return graph->buffer_count++;
}

/* Whether a node that runs now may write over a tensor: all that lies in its buffer is of no further use. */
static bool is_free(const msq_graph *graph, const msq_tensor *tensor, size_t bytes, int32_t now) {
    return tensor->buffer != NO_BUFFER && graph->buffers[tensor->buffer].last == now &&
           graph->buffers[tensor->buffer].bytes == bytes;
}

/* The tensor whose place the result of a node may take, or −1. */
static int32_t replaced(const msq_graph *graph, const msq_node *node, int32_t now) {
    const size_t bytes = msq_tensor_bytes(msq_made_by(graph, node));
    if (node->residual >= 0) { /* read code by code, just before the sum is written; the layer's input is read longer */
        const msq_tensor *residual = &graph->tensors[node->residual];
        if (is_free(graph, residual, bytes, now) && msq_input_of(graph, node, 0)->buffer != residual->buffer)
            return node->residual;
    }
    for (int32_t i = 0; node->operation->is_in_place && i < node->input_count; i++) {
        const msq_tensor *other = msq_input_of(graph, node, node->input_count - 1 - i);
        const bool is_alone = node->input_count == 1 || other->buffer != msq_input_of(graph, node, i)->buffer;
        if (is_alone && is_free(graph, msq_input_of(graph, node, i), bytes, now)) return node->inputs[i];
    }
    return -1;
}

static void assign(msq_graph *graph, msq_node *node, int32_t now) {
    msq_tensor *made = msq_made_by(graph, node);
    if (node->workspace_bytes) node->workspace = add_buffer(graph, node->workspace_bytes, now, now);
    if (made->is_output) return;
    if (node->codes) {
        made->data = (uint8_t *)(uintptr_t)node->codes; /* read only, as all inputs are */
        return;
    }
    const int32_t source = node->operation->is_view ? node->inputs[0] : replaced(graph, node, now);
    if (source < 0) {
        made->buffer = add_buffer(graph, msq_tensor_bytes(made), now, made->last_use);
        return;
    }
    made->buffer = graph->tensors[source].buffer;
    made->data = graph->tensors[source].data;
    if (made->buffer == NO_BUFFER) return;
    msq_buffer *shared = &graph->buffers[made->buffer];
    if (made->last_use > shared->last) shared->last = made->last_use;
}

msq_status msq_schedule(msq_graph *graph, bool is_fused) {
    for (int32_t i = 0; is_fused && i < graph->node_count; i++)
        if (msq_is_addition(graph->nodes[i].operation)) fuse(graph, i);
    find_last_uses(graph);
    graph->buffers = calloc(2 * (size_t)graph->node_count + 1, sizeof *graph->buffers);
    if (graph->buffers == NULL) return msq_fail(MSQ_MEMORY, "no memory for the plan of the arena");
    for (int32_t i = 0; i < graph->node_count; i++) {
        msq_node *node = &graph->nodes[i];
        if (node->done_by >= 0) continue;
        const msq_status status = node->operation->needs ? node->operation->needs(graph, node) : MSQ_OK;
        if (status) return status;
        assign(graph, node, i);
    }
    return msq_plan_arena(graph);
}

void msq_settle(msq_graph *graph, uint8_t *arena) {
    for (int32_t i = 0; i < graph->tensor_count; i++) {
        msq_tensor *tensor = &graph->tensors[i];
        if (tensor->buffer != NO_BUFFER) tensor->data = arena + graph->buffers[tensor->buffer].offset;
    }
    for (int32_t i = 0; i < graph->node_count; i++) {
        msq_node *node = &graph->nodes[i];
        if (node->workspace != NO_BUFFER) node->scratch = arena + graph->buffers[node->workspace].offset;
    }
}
