/* model.json becomes a graph. */
#include <stdio.h>
#include <string.h>

#include "files.h"
#include "graph.h"

enum {
    NEWEST_SCHEMA = 1,
    /* Inputs of all nodes, and arrays: names are sought one after another, which many more would make a matter of minutes. */
    MOST_NAMES = 4 * MOST_NODES,
};

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

static msq_status read_tensor(msq_graph *graph, int32_t value) {
    const msq_json *json = &graph->json;
    msq_tensor tensor = {.rank = 0};
    if (!copy_string(json, msq_json_member(json, value, "name"), tensor.name))
        return msq_fail(MSQ_FILE, "tensor %d has no name of 1 to %d plain characters", graph->tensor_count,
                        MOST_NAME - 1);
    if (tensor_named(graph, msq_json_member(json, value, "name")) >= 0)
        return msq_fail(MSQ_INVALID, "tensor %s: it is there twice", tensor.name);
    const int32_t dtype = msq_json_member(json, value, "dtype"), shape = msq_json_member(json, value, "shape");
    double scale;
    int64_t number;
    if (!msq_json_equals(json, dtype, "int8") && !msq_json_equals(json, dtype, "float32"))
        return msq_fail(MSQ_SCHEMA, "tensor %s: its dtype is neither int8 nor float32", tensor.name);
    tensor.dtype = msq_json_equals(json, dtype, "int8") ? MSQ_INT8 : MSQ_FLOAT32;
    /* What is no number at all becomes one that is refused. */
    tensor.scale = msq_json_double(json, msq_json_member(json, value, "scale"), &scale) ? (float)scale : 0;
    tensor.zero = msq_json_int(json, msq_json_member(json, value, "zero_point"), -128, 127, &number) ? (int32_t)number
                                                                                                     : INT32_MAX;
    for (int32_t i = msq_json_first(json, shape); i >= 0; i = msq_json_next(json, shape, i), tensor.rank++)
        if (tensor.rank < MSQ_MOST_RANK)
            tensor.shape[tensor.rank] = msq_json_int(json, i, 0, INT32_MAX, &number) ? (int32_t)number : 0;
    return msq_graph_add_tensor(graph, &tensor);
}

/* Arrays lie in weights.bin, where the member "arrays" of model.json says. */
static msq_status find(const msq_graph *graph, const msq_node *node, const char *name, msq_array *found) {
    static const struct {
        const char *name;
        size_t bytes;
    } DTYPES[] = {{"uint8", 1}, {"int8", 1}, {"int32", 4}, {"float32", 4}};
    const msq_json *json = &graph->json;
    const msq_mapping *weights = graph->arrays;
    char key[2 * MOST_NAME];
    snprintf(key, sizeof key, "%s.%s", node->name, name);
    const int32_t stored = msq_json_member(json, msq_json_member(json, 0, "arrays"), key);
    if (stored < 0) return msq_node_fail(node, MSQ_FILE, "the array %s is missing", name);
    size_t bytes = 0;
    for (size_t i = 0; i < sizeof DTYPES / sizeof *DTYPES; i++) {
        if (!msq_json_equals(json, msq_json_member(json, stored, "dtype"), DTYPES[i].name)) continue;
        found->dtype = DTYPES[i].name;
        bytes = DTYPES[i].bytes;
    }
    if (bytes == 0) return msq_node_fail(node, MSQ_INVALID, "the array %s has an unknown dtype", name);
    int64_t offset;
    if (!msq_json_int(json, msq_json_member(json, stored, "offset"), 0, INT64_MAX, &offset) || offset % ATOM)
        return msq_node_fail(node, MSQ_INVALID, "the array %s lies at no multiple of 64 bytes", name);
    const int32_t shape = msq_json_member(json, stored, "shape");
    found->count = 1;
    for (int32_t i = msq_json_first(json, shape); i >= 0; i = msq_json_next(json, shape, i)) {
        int64_t size;
        if (!msq_json_int(json, i, 0, INT32_MAX, &size) || (size && found->count > (size_t)(INT32_MAX / size)))
            return msq_node_fail(node, MSQ_INVALID, "the array %s has an impossible shape", name);
        found->count *= (size_t)size;
    }
    bytes *= found->count;
    if ((uint64_t)offset > weights->size || bytes > weights->size - (size_t)offset)
        return msq_node_fail(node, MSQ_FILE, "the array %s ends behind the %zu bytes of weights.bin", name,
                             weights->size);
    found->data = weights->at + offset;
    return MSQ_OK;
}

static msq_status read_node(msq_graph *graph, int32_t value) {
    const msq_json *json = &graph->json;
    msq_node node = {.inputs = graph->inputs + graph->input_count};
    if (!copy_string(json, msq_json_member(json, value, "name"), node.name))
        return msq_fail(MSQ_FILE, "node %d has no name of 1 to %d plain characters", graph->node_count, MOST_NAME - 1);
    const int32_t kind = msq_json_member(json, value, "kind"), inputs = msq_json_member(json, value, "inputs");
    if (!msq_json_is(json, kind, JSON_STRING)) return msq_node_fail(&node, MSQ_FILE, "it has no kind");
    const int size = json->values[kind].size < 40 ? (int)json->values[kind].size : 40;
    node.operation = msq_operation_named(json->values[kind].at, json->values[kind].size);
    if (node.operation == NULL)
        return msq_node_fail(&node, MSQ_SCHEMA, "the operation %.*s is not known here", size, json->values[kind].at);
    for (int32_t i = msq_json_first(json, inputs); i >= 0; i = msq_json_next(json, inputs, i)) {
        const int32_t tensor = tensor_named(graph, i);
        if (tensor < 0)
            return msq_node_fail(&node, MSQ_INVALID, "its input %d is no tensor of the model", node.input_count);
        node.inputs[node.input_count++] = tensor;
    }
    node.output = tensor_named(graph, msq_json_member(json, value, "output"));
    if (node.output < 0) return msq_node_fail(&node, MSQ_INVALID, "its output is no tensor of the model");
    return msq_graph_add_node(graph, &node, value);
}

msq_status msq_graph_read(msq_graph *graph, const char *text, size_t size) {
    msq_json *json = &graph->json;
    msq_status status = msq_json_parse(json, text, size);
    if (status) return status;
    graph->find = find;
    int64_t version;
    if (!msq_json_int(json, msq_json_member(json, 0, "schema_version"), 1, INT32_MAX, &version))
        return msq_fail(MSQ_FILE, "it has no schema version: not an integer model");
    if (version > NEWEST_SCHEMA)
        return msq_fail(MSQ_SCHEMA, "schema version %lld is newer than %d, the newest readable here",
                        (long long)version, NEWEST_SCHEMA);
    const int32_t tensors = msq_json_member(json, 0, "tensors"), nodes = msq_json_member(json, 0, "nodes");
    const int32_t tensor_count = length_of(json, tensors), node_count = length_of(json, nodes);
    if (tensor_count > MOST_NODES || node_count > MOST_NODES)
        return msq_fail(MSQ_INVALID, "a model has at most %d tensors and nodes", MOST_NODES);
    if (length_of(json, msq_json_member(json, 0, "arrays")) / 2 > MOST_NAMES)
        return msq_fail(MSQ_INVALID, "a model has at most %d arrays", MOST_NAMES);
    int32_t inputs = 0;
    for (int32_t i = msq_json_first(json, nodes); i >= 0; i = msq_json_next(json, nodes, i))
        inputs += length_of(json, msq_json_member(json, i, "inputs"));
    if (inputs > MOST_NAMES) return msq_fail(MSQ_INVALID, "a model's nodes have at most %d inputs", MOST_NAMES);
    if ((status = msq_graph_make(graph, tensor_count, node_count, inputs))) return status;
    for (int32_t i = msq_json_first(json, tensors); i >= 0; i = msq_json_next(json, tensors, i))
        if ((status = read_tensor(graph, i))) return status;
    graph->input = tensor_named(graph, msq_json_member(json, 0, "input"));
    if (graph->input < 0) return msq_fail(MSQ_INVALID, "the model's input is none of its tensors");
    graph->tensors[graph->input].is_input = true;
    for (int32_t i = msq_json_first(json, nodes); i >= 0; i = msq_json_next(json, nodes, i))
        if ((status = read_node(graph, i))) return status;
    graph->output = tensor_named(graph, msq_json_member(json, 0, "output"));
    if (graph->output < 0 || graph->tensors[graph->output].producer < 0)
        return msq_fail(MSQ_INVALID, "no node makes the model's output");
    graph->tensors[graph->output].is_output = true;
    const msq_tensor *input = &graph->tensors[graph->input], *output = &graph->tensors[graph->output];
    if (input->dtype != MSQ_FLOAT32 || output->dtype != MSQ_FLOAT32)
        return msq_fail(MSQ_INVALID, "the model's input and output must be float32");
    return MSQ_OK;
}
