/* A graph is put together. Nothing is believed of what it is made from: edges, shapes and sizes are checked here, what
 * an operation says of itself in operators.c. */
#include "graph.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_TENSOR_BYTES = 1 << 30, MOST_SIZE = 1 << 24 };

msq_status msq_node_fail(const msq_node *node, msq_status status, const char *format, ...) {
    char what[256];
    va_list values;
    va_start(values, format);
    vsnprintf(what, sizeof what, format, values);
    va_end(values);
    const char *kind = node->operation ? node->operation->kind : "node";
    return msq_fail(status, "%s %.120s: %s", kind, node->name, what);
}

msq_status msq_graph_make(msq_graph *graph, int32_t tensors, int32_t nodes, int32_t inputs) {
    graph->tensors = calloc((size_t)tensors + 1, sizeof *graph->tensors);
    graph->nodes = calloc((size_t)nodes + 1, sizeof *graph->nodes);
    graph->inputs = calloc((size_t)inputs + 1, sizeof *graph->inputs);
    if (graph->tensors && graph->nodes && graph->inputs) return MSQ_OK;
    return msq_fail(MSQ_MEMORY, "no memory for %d nodes", nodes);
}

msq_status msq_graph_add_tensor(msq_graph *graph, const msq_tensor *said) {
    if (!(said->scale > 0) || said->scale > 0x1p100f)
        return msq_fail(MSQ_INVALID, "tensor %s: its scale is not above 0", said->name);
    if (said->zero < -128 || said->zero > 127)
        return msq_fail(MSQ_INVALID, "tensor %s: its zero point is not in int8", said->name);
    size_t count = said->rank >= 1 && said->rank <= MSQ_MOST_RANK;
    for (int32_t i = 0; count && i < said->rank; i++) {
        count *= said->shape[i] >= 1 && said->shape[i] <= MOST_SIZE ? (size_t)said->shape[i] : 0;
        if (count > MOST_TENSOR_BYTES)
            return msq_fail(MSQ_INVALID, "tensor %s: larger than a gibibyte", said->name);
    }
    if (count == 0)
        return msq_fail(MSQ_INVALID, "tensor %s: a shape has 1 to %d sizes from 1 to 2^24", said->name, MSQ_MOST_RANK);
    msq_tensor *tensor = &graph->tensors[graph->tensor_count++];
    *tensor = *said;
    tensor->count = count;
    tensor->producer = -1;
    tensor->buffer = NO_BUFFER;
    return MSQ_OK;
}

/* Whether a node's inputs are as many as its operation takes, and there before it. */
static msq_status take_inputs(msq_graph *graph, msq_node *node) {
    const int32_t wanted = node->operation->inputs;
    if (wanted < 0 ? node->input_count < 1 : node->input_count != wanted)
        return msq_node_fail(node, MSQ_INVALID, "it has %d inputs", node->input_count);
    for (int32_t i = 0; i < node->input_count; i++) {
        msq_tensor *input = &graph->tensors[node->inputs[i]];
        if (!input->is_input && input->producer < 0)
            return msq_node_fail(node, MSQ_INVALID, "its input %.120s is not made before it", input->name);
        input->uses++;
    }
    return MSQ_OK;
}

msq_status msq_graph_add_node(msq_graph *graph, const msq_node *said, int32_t value) {
    const int32_t index = graph->node_count++;
    msq_node *node = &graph->nodes[index];
    *node = *said;
    node->workspace = NO_BUFFER;
    node->addition = node->residual = node->done_by = -1;
    node->low = -128;
    node->high = 127;
    graph->input_count += node->input_count;
    msq_status status = take_inputs(graph, node);
    if (status) return status;
    msq_tensor *output = &graph->tensors[node->output];
    if (output->is_input || output->producer >= 0)
        return msq_node_fail(node, MSQ_INVALID, "its output %.120s is made twice", output->name);
    if (msq_json_member(&graph->json, value, "clamp") >= 0) {
        int32_t clamp[2];
        status = msq_read_ints(graph, node, value, "clamp", 2, -128, 127, clamp);
        if (status) return status;
        if (clamp[0] > clamp[1]) return msq_node_fail(node, MSQ_INVALID, "clamp %d to %d", clamp[0], clamp[1]);
        node->low = clamp[0];
        node->high = clamp[1];
    }
    status = node->operation->read(graph, node, value);
    output->producer = index; /* not before: no node reads its own output */
    return status;
}

msq_status msq_read_ints(const msq_graph *graph, const msq_node *node, int32_t object, const char *name, int32_t count,
                         int32_t low, int32_t high, int32_t *out) {
    const msq_json *json = &graph->json;
    const int32_t member = msq_json_member(json, object, name);
    const bool is_list = msq_json_is(json, member, JSON_ARRAY);
    int32_t read = 0, i = is_list ? msq_json_first(json, member) : member;
    int64_t number;
    for (; read < count && msq_json_int(json, i, low, high, &number); i = is_list ? msq_json_next(json, member, i) : -1)
        out[read++] = (int32_t)number;
    if (read == count && i < 0) return MSQ_OK;
    return msq_node_fail(node, MSQ_INVALID, "%s wants %d whole numbers from %d to %d", name, count, low, high);
}

msq_status msq_read_float(const msq_graph *graph, const msq_node *node, int32_t object, const char *name, float *out) {
    double number;
    if (!msq_json_double(&graph->json, msq_json_member(&graph->json, object, name), &number))
        return msq_node_fail(node, MSQ_INVALID, "%s wants a number", name);
    *out = (float)number;
    return MSQ_OK;
}

msq_status msq_read_array(const msq_graph *graph, const msq_node *node, const char *name, const char *dtype,
                          size_t count, const void **out) {
    msq_array found = {0};
    *out = NULL;
    if (count == 0) return MSQ_OK;
    const msq_status status = graph->find(graph, node, name, &found);
    if (status) return status;
    if (strcmp(found.dtype, dtype)) return msq_node_fail(node, MSQ_INVALID, "the array %s is not of %s", name, dtype);
    if (found.count != count)
        return msq_node_fail(node, MSQ_INVALID, "the array %s has %zu elements, %zu are wanted", name, found.count,
                             count);
    *out = found.data;
    return MSQ_OK;
}

void msq_graph_free(msq_graph *graph) {
    for (int32_t i = 0; i < graph->node_count; i++) msq_layer_destroy(graph->nodes[i].layer);
    msq_json_free(&graph->json);
    free(graph->tensors);
    free(graph->nodes);
    free(graph->inputs);
    free(graph->buffers);
}
