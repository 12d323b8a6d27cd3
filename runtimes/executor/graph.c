/* model.json becomes a graph. Nothing of it is believed: names, edges, shapes and places are checked here, what an
 * operation says of itself in operators.c. */
#include "graph.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    NEWEST_SCHEMA = 1,
    MOST_TENSOR_BYTES = 1 << 30,
    /* Inputs of all nodes, and arrays: names are sought one after another, which many more would make a matter of minutes. */
    MOST_NAMES = 4 * MOST_NODES,
};

msq_status msq_node_fail(const msq_node *node, msq_status status, const char *format, ...) {
    char what[256];
    va_list values;
    va_start(values, format);
    vsnprintf(what, sizeof what, format, values);
    va_end(values);
    const char *kind = node->operation ? node->operation->kind : "node";
    return msq_fail(status, "%s %.120s: %s", kind, node->name, what);
}

/* Copy a string without escapes; they occur in no name that export makes. */
static bool copy_string(const msq_json *json, int32_t value, char out[MOST_NAME]) {
    if (!msq_json_is(json, value, JSON_STRING)) return false;
    const msq_json_value *found = &json->values[value];
    if (found->size == 0 || found->size >= MOST_NAME || memchr(found->at, '\\', found->size)) return false;
    memcpy(out, found->at, found->size);
    out[found->size] = 0;
    return true;
}

static int32_t length_of(const msq_json *json, int32_t array) {
    int32_t count = 0;
    for (int32_t i = msq_json_first(json, array); i >= 0; i = msq_json_next(json, array, i)) count++;
    return count;
}

static int32_t tensor_named(const msq_graph *graph, int32_t value) {
    for (int32_t i = 0; i < graph->tensor_count; i++)
        if (msq_json_equals(&graph->json, value, graph->tensors[i].name)) return i;
    return -1;
}

static msq_status read_shape(const msq_json *json, int32_t array, msq_tensor *tensor) {
    tensor->count = 1;
    for (int32_t i = msq_json_first(json, array); i >= 0; i = msq_json_next(json, array, i)) {
        int64_t size;
        if (tensor->rank == MSQ_MOST_RANK || !msq_json_int(json, i, 1, 1 << 24, &size))
            return msq_fail(MSQ_INVALID, "tensor %s: a shape has 1 to %d sizes from 1 to 2^24", tensor->name,
                            MSQ_MOST_RANK);
        tensor->shape[tensor->rank++] = (int32_t)size;
        tensor->count *= (size_t)size;
        if (tensor->count > MOST_TENSOR_BYTES)
            return msq_fail(MSQ_INVALID, "tensor %s: larger than a gibibyte", tensor->name);
    }
    return tensor->rank ? MSQ_OK : msq_fail(MSQ_INVALID, "tensor %s: it has no shape", tensor->name);
}

static msq_status read_tensor(msq_graph *graph, int32_t value) {
    const msq_json *json = &graph->json;
    msq_tensor *tensor = &graph->tensors[graph->tensor_count];
    if (!copy_string(json, msq_json_member(json, value, "name"), tensor->name))
        return msq_fail(MSQ_FILE, "tensor %d has no name of 1 to %d plain characters", graph->tensor_count,
                        MOST_NAME - 1);
    if (tensor_named(graph, msq_json_member(json, value, "name")) >= 0)
        return msq_fail(MSQ_INVALID, "tensor %s: it is there twice", tensor->name);
    const int32_t dtype = msq_json_member(json, value, "dtype");
    double scale;
    int64_t zero;
    if (!msq_json_equals(json, dtype, "int8") && !msq_json_equals(json, dtype, "float32"))
        return msq_fail(MSQ_SCHEMA, "tensor %s: its dtype is neither int8 nor float32", tensor->name);
    tensor->dtype = msq_json_equals(json, dtype, "int8") ? MSQ_INT8 : MSQ_FLOAT32;
    if (!msq_json_double(json, msq_json_member(json, value, "scale"), &scale) || !((float)scale > 0) ||
        scale > (double)0x1p100f)
        return msq_fail(MSQ_INVALID, "tensor %s: its scale is not above 0", tensor->name);
    if (!msq_json_int(json, msq_json_member(json, value, "zero_point"), -128, 127, &zero))
        return msq_fail(MSQ_INVALID, "tensor %s: its zero point is not in int8", tensor->name);
    tensor->scale = (float)scale;
    tensor->zero = (int32_t)zero;
    tensor->producer = -1;
    tensor->buffer = NO_BUFFER;
    const msq_status status = read_shape(json, msq_json_member(json, value, "shape"), tensor);
    if (status == MSQ_OK) graph->tensor_count++;
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
    const msq_json *json = &graph->json;
    char key[2 * MOST_NAME];
    snprintf(key, sizeof key, "%s.%s", node->name, name);
    const int32_t stored = msq_json_member(json, msq_json_member(json, 0, "arrays"), key);
    if (stored < 0) return msq_node_fail(node, MSQ_FILE, "the array %s is missing", name);
    if (!msq_json_equals(json, msq_json_member(json, stored, "dtype"), dtype))
        return msq_node_fail(node, MSQ_INVALID, "the array %s is not of %s", name, dtype);
    int64_t offset, found = 1;
    if (!msq_json_int(json, msq_json_member(json, stored, "offset"), 0, INT64_MAX, &offset) || offset % ATOM)
        return msq_node_fail(node, MSQ_INVALID, "the array %s lies at no multiple of 64 bytes", name);
    const int32_t shape = msq_json_member(json, stored, "shape");
    for (int32_t i = msq_json_first(json, shape); i >= 0; i = msq_json_next(json, shape, i)) {
        int64_t size;
        if (!msq_json_int(json, i, 0, INT32_MAX, &size) || (size && found > INT32_MAX / size))
            return msq_node_fail(node, MSQ_INVALID, "the array %s has an impossible shape", name);
        found *= size;
    }
    if ((uint64_t)found != count)
        return msq_node_fail(node, MSQ_INVALID, "the array %s has %lld elements, %zu are wanted", name,
                             (long long)found, count);
    const size_t bytes = count * (strcmp(dtype, "uint8") && strcmp(dtype, "int8") ? 4 : 1);
    if ((uint64_t)offset > graph->weight_bytes || bytes > graph->weight_bytes - (size_t)offset)
        return msq_node_fail(node, MSQ_FILE, "the array %s ends behind the %zu bytes of weights.bin", name,
                             graph->weight_bytes);
    *out = graph->weights + offset;
    return MSQ_OK;
}

static msq_status read_inputs(msq_graph *graph, msq_node *node, int32_t list) {
    node->input_count = length_of(&graph->json, list);
    const int32_t wanted = node->operation->inputs;
    if (wanted < 0 ? node->input_count < 1 : node->input_count != wanted)
        return msq_node_fail(node, MSQ_INVALID, "it has %d inputs", node->input_count);
    int32_t count = 0;
    for (int32_t i = msq_json_first(&graph->json, list); i >= 0; i = msq_json_next(&graph->json, list, i), count++) {
        const int32_t tensor = tensor_named(graph, i);
        if (tensor < 0) return msq_node_fail(node, MSQ_INVALID, "its input %d is no tensor of the model", count);
        msq_tensor *input = &graph->tensors[tensor];
        if (tensor != graph->input && input->producer < 0)
            return msq_node_fail(node, MSQ_INVALID, "its input %.120s is not made before it", input->name);
        input->uses++;
        node->inputs[count] = tensor;
    }
    return MSQ_OK;
}

static msq_status read_node(msq_graph *graph, int32_t value, int32_t *inputs) {
    const msq_json *json = &graph->json;
    const int32_t index = graph->node_count;
    msq_node *node = &graph->nodes[graph->node_count++];
    *node = (msq_node){.inputs = inputs, .workspace = NO_BUFFER, .addition = -1, .residual = -1, .done_by = -1,
                       .low = -128, .high = 127};
    if (!copy_string(json, msq_json_member(json, value, "name"), node->name))
        return msq_fail(MSQ_FILE, "node %d has no name of 1 to %d plain characters", index, MOST_NAME - 1);
    const int32_t kind = msq_json_member(json, value, "kind");
    if (!msq_json_is(json, kind, JSON_STRING)) return msq_node_fail(node, MSQ_FILE, "it has no kind");
    const int size = json->values[kind].size < 40 ? (int)json->values[kind].size : 40;
    node->operation = msq_operation_named(json->values[kind].at, json->values[kind].size);
    if (node->operation == NULL)
        return msq_node_fail(node, MSQ_SCHEMA, "the operation %.*s is not known here", size, json->values[kind].at);
    msq_status status = read_inputs(graph, node, msq_json_member(json, value, "inputs"));
    if (status) return status;
    node->output = tensor_named(graph, msq_json_member(json, value, "output"));
    if (node->output < 0) return msq_node_fail(node, MSQ_INVALID, "its output is no tensor of the model");
    msq_tensor *output = &graph->tensors[node->output];
    if (node->output == graph->input || output->producer >= 0)
        return msq_node_fail(node, MSQ_INVALID, "its output %.120s is made twice", output->name);
    if (msq_json_member(json, value, "clamp") >= 0) {
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

static msq_status read_nodes(msq_graph *graph, int32_t list) {
    const msq_json *json = &graph->json;
    int32_t inputs = 0;
    for (int32_t i = msq_json_first(json, list); i >= 0; i = msq_json_next(json, list, i))
        inputs += length_of(json, msq_json_member(json, i, "inputs"));
    if (inputs > MOST_NAMES) return msq_fail(MSQ_INVALID, "a model's nodes have at most %d inputs", MOST_NAMES);
    graph->nodes = calloc((size_t)length_of(json, list) + 1, sizeof *graph->nodes);
    graph->inputs = calloc((size_t)inputs + 1, sizeof *graph->inputs);
    if (graph->nodes == NULL || graph->inputs == NULL) return msq_fail(MSQ_MEMORY, "no memory for the nodes");
    inputs = 0;
    for (int32_t i = msq_json_first(json, list); i >= 0; i = msq_json_next(json, list, i)) {
        const msq_status status = read_node(graph, i, graph->inputs + inputs);
        if (status) return status;
        inputs += graph->nodes[graph->node_count - 1].input_count;
    }
    return MSQ_OK;
}

msq_status msq_graph_read(msq_graph *graph, const char *text, size_t size) {
    msq_json *json = &graph->json;
    msq_status status = msq_json_parse(json, text, size);
    if (status) return status;
    int64_t version;
    if (!msq_json_int(json, msq_json_member(json, 0, "schema_version"), 1, INT32_MAX, &version))
        return msq_fail(MSQ_FILE, "it has no schema version: not an integer model");
    if (version > NEWEST_SCHEMA)
        return msq_fail(MSQ_SCHEMA, "schema version %lld is newer than %d, the newest readable here",
                        (long long)version, NEWEST_SCHEMA);
    const int32_t tensors = msq_json_member(json, 0, "tensors"), nodes = msq_json_member(json, 0, "nodes");
    if (length_of(json, tensors) > MOST_NODES || length_of(json, nodes) > MOST_NODES)
        return msq_fail(MSQ_INVALID, "a model has at most %d tensors and nodes", MOST_NODES);
    if (length_of(json, msq_json_member(json, 0, "arrays")) / 2 > MOST_NAMES)
        return msq_fail(MSQ_INVALID, "a model has at most %d arrays", MOST_NAMES);
    graph->tensors = calloc((size_t)length_of(json, tensors) + 1, sizeof *graph->tensors);
    if (graph->tensors == NULL) return msq_fail(MSQ_MEMORY, "no memory for the tensors");
    for (int32_t i = msq_json_first(json, tensors); i >= 0; i = msq_json_next(json, tensors, i))
        if ((status = read_tensor(graph, i))) return status;
    graph->input = tensor_named(graph, msq_json_member(json, 0, "input"));
    if (graph->input < 0) return msq_fail(MSQ_INVALID, "the model's input is none of its tensors");
    if ((status = read_nodes(graph, nodes))) return status;
    graph->output = tensor_named(graph, msq_json_member(json, 0, "output"));
    if (graph->output < 0 || graph->tensors[graph->output].producer < 0)
        return msq_fail(MSQ_INVALID, "no node makes the model's output");
    const msq_tensor *input = &graph->tensors[graph->input], *output = &graph->tensors[graph->output];
    if (input->dtype != MSQ_FLOAT32 || output->dtype != MSQ_FLOAT32)
        return msq_fail(MSQ_INVALID, "the model's input and output must be float32");
    return MSQ_OK;
}

void msq_graph_free(msq_graph *graph) {
    for (int32_t i = 0; i < graph->node_count; i++) msq_layer_destroy(graph->nodes[i].layer);
    msq_threads_destroy(graph->threads);
    msq_json_free(&graph->json);
    free(graph->tensors);
    free(graph->nodes);
    free(graph->inputs);
    free(graph->buffers);
}
