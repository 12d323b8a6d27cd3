/* Convolutions and linear layers: the packed kernels, on weights where the file holds them. */
#include "operators.h"

/* Read what a layer is into a spec; the weights' shape is (outputs, kernel height, kernel width, inputs of a group). */
static msq_status read_weight(const msq_graph *graph, const msq_node *node, int32_t json, bool is_linear,
                              msq_layer_spec *spec) {
    const int32_t weight = msq_json_member(&graph->json, json, "weight"), most = 1 << 24;
    int32_t shape[4] = {1, 1, 1, 1};
    msq_status status;
    if (is_linear) {
        int32_t two[2];
        status = msq_read_ints(graph, node, weight, "shape", 2, 1, most, two);
        shape[0] = two[0];
        shape[3] = two[1];
    } else {
        status = msq_read_ints(graph, node, weight, "shape", 4, 1, most, shape);
    }
    if (status) return status;
    spec->outputs = shape[0];
    spec->kernel[0] = shape[1];
    spec->kernel[1] = shape[2];
    spec->inputs = shape[3];
    spec->depthwise = msq_json_is(&graph->json, msq_json_member(&graph->json, weight, "depthwise"), JSON_TRUE);
    if ((status = msq_read_ints(graph, node, weight, "bits", 1, 0, 8, &spec->bits)) ||
        (status = msq_read_ints(graph, node, weight, "a", 1, 1, 2, &spec->a)) ||
        (status = msq_read_ints(graph, node, weight, "z", 1, 0, 255, &spec->z)))
        return status;
    const int64_t taps = (int64_t)shape[1] * shape[2], most_weights = INT32_MAX;
    if (taps > most || taps * shape[3] > most_weights || taps * shape[3] * shape[0] > most_weights)
        return msq_node_fail(node, MSQ_INVALID, "more than 2^31 weights");
    spec->packed_bytes = msq_packed_bytes(shape[0], shape[3], (int32_t)taps, spec->bits, spec->depthwise);
    const void *packed, *scale, *bias;
    const size_t outputs = (size_t)shape[0];
    if ((status = msq_read_array(graph, node, "packed", "uint8", spec->packed_bytes, &packed)) ||
        (status = msq_read_array(graph, node, "scale", "float32", outputs, &scale)) ||
        (status = msq_read_array(graph, node, "bias", "int32", outputs, &bias)))
        return status;
    spec->packed = packed;
    spec->weight_scale = scale;
    spec->bias = bias;
    return MSQ_OK;
}

static msq_status create(msq_node *node, const msq_layer_spec *spec) {
    const msq_status status = msq_layer_create(spec, &node->layer);
    return status ? msq_kernel_failed(node, status) : MSQ_OK;
}

static msq_layer_spec spec_of(const msq_graph *graph, const msq_node *node) {
    const msq_tensor *x = msq_input_of(graph, node, 0), *y = msq_output_of(graph, node);
    return (msq_layer_spec){
        .abi = MSQ_KERNELS_ABI,
        .groups = 1,
        .stride = {1, 1},
        .dilation = {1, 1},
        .input_scale = x->scale,
        .output_scale = y->scale,
        .input_zero = x->zero,
        .output_zero = y->zero,
        .low = node->low,
        .high = node->high,
    };
}

msq_status msq_read_conv2d(msq_graph *graph, msq_node *node, int32_t json) {
    const msq_tensor *x = msq_input_of(graph, node, 0), *y = msq_output_of(graph, node);
    msq_layer_spec spec = spec_of(graph, node);
    int32_t size[2];
    msq_status status;
    if ((status = msq_read_ints(graph, node, json, "stride", 2, 1, 1024, spec.stride)) ||
        (status = msq_read_ints(graph, node, json, "dilation", 2, 1, 1024, spec.dilation)) ||
        (status = msq_read_ints(graph, node, json, "padding", 4, 0, 4096, spec.padding)) ||
        (status = msq_read_ints(graph, node, json, "groups", 1, 1, 1 << 24, &spec.groups)) ||
        (status = read_weight(graph, node, json, false, &spec)) || (status = create(node, &spec)))
        return status;
    if (!msq_is_int8(x, 3) || (int64_t)spec.inputs * spec.groups != x->shape[2])
        return msq_node_fail(node, MSQ_INVALID, "its input is no int8 map of %d · %d channels", spec.inputs,
                             spec.groups);
    node->height = x->shape[0];
    node->width = x->shape[1];
    if ((status = msq_layer_output(node->layer, node->height, node->width, size)))
        return msq_kernel_failed(node, status);
    if (!msq_is_int8(y, 3) || y->shape[0] != size[0] || y->shape[1] != size[1] || y->shape[2] != spec.outputs)
        return msq_node_fail(node, MSQ_INVALID, "its output is no int8 map of %d × %d × %d", size[0], size[1],
                             spec.outputs);
    return MSQ_OK;
}

msq_status msq_read_linear(msq_graph *graph, msq_node *node, int32_t json) {
    const msq_tensor *x = msq_input_of(graph, node, 0), *y = msq_output_of(graph, node);
    msq_layer_spec spec = spec_of(graph, node);
    msq_status status;
    if ((status = read_weight(graph, node, json, true, &spec)) || (status = create(node, &spec))) return status;
    bool fits = msq_is_int8(x, 0) && msq_is_int8(y, x->rank) && x->shape[x->rank - 1] == spec.inputs &&
                y->shape[y->rank - 1] == spec.outputs;
    for (int32_t i = 0; fits && i < x->rank - 1; i++) fits = x->shape[i] == y->shape[i];
    if (!fits)
        return msq_node_fail(node, MSQ_INVALID, "its tensors are not int8, of %d and %d features", spec.inputs,
                             spec.outputs);
    node->height = 1;
    node->width = (int32_t)(x->count / (size_t)spec.inputs);
    return MSQ_OK;
}

msq_status msq_layer_needs(const msq_graph *graph, msq_node *node) {
    const msq_status status = msq_layer_workspace(node->layer, 1, node->height, node->width, graph->threads,
                                                  &node->workspace_bytes);
    if (status) return msq_kernel_failed(node, status);
    if (node->addition < 0) return MSQ_OK;
    const msq_node *add = &graph->nodes[node->addition];
    const msq_tensor *y = msq_output_of(graph, node), *r = &graph->tensors[node->residual];
    const msq_tensor *sum = msq_output_of(graph, add);
    node->sum = (msq_residual){
        .ratio = y->scale / sum->scale,
        .residual_ratio = r->scale / sum->scale,
        .zero = r->zero,
        .sum_zero = sum->zero,
        .low = add->low,
        .high = add->high,
    };
    return MSQ_OK;
}

void msq_run_layer(const msq_graph *graph, msq_node *node) {
    msq_call call = {
        .x = (const int8_t *)msq_input_of(graph, node, 0)->data,
        .batch = 1,
        .height = node->height,
        .width = node->width,
        .y = (int8_t *)msq_made_by(graph, node)->data,
        .workspace = node->scratch,
        .workspace_bytes = node->workspace_bytes,
    };
    if (node->addition >= 0) {
        node->sum.values = (const int8_t *)graph->tensors[node->residual].data;
        call.residual = &node->sum;
    }
    /* All that it could refuse was checked when the model was loaded. */
    msq_layer_run(node->layer, &call, graph->threads);
}
