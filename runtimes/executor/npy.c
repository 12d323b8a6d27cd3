#include "npy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tier.h"

enum { MOST_HEADER = 4096 };

static msq_status refused(const msq_npy *array, const char *why) {
    return msq_fail(MSQ_INPUT, "%.150s: %s", array->path, why);
}

static msq_status read_header(msq_npy *array) {
    uint8_t begin[10];
    char header[MOST_HEADER + 1];
    if (fread(begin, 1, sizeof begin, array->stream) < sizeof begin || memcmp(begin, "\x93NUMPY\x01", 7))
        return refused(array, "not a .npy file of version 1");
    const size_t size = (size_t)begin[8] | (size_t)begin[9] << 8;
    if (size > MOST_HEADER || fread(header, 1, size, array->stream) < size) return refused(array, "its header is cut");
    header[size] = 0;
    const char *type = strstr(header, "'descr': '"), *shape = strstr(header, "'shape': (");
    if (type == NULL || shape == NULL || strstr(header, "'fortran_order': False") == NULL)
        return refused(array, "its header is not of an array in C order");
    type += strlen("'descr': '");
    if ((type[0] != '<' && type[0] != '|') || strlen(type) < 4 || type[3] != '\'')
        return refused(array, "its elements are not little-endian numbers");
    memcpy(array->type, type + 1, 2);
    for (shape += strlen("'shape': ("); *shape && *shape != ')';) {
        char *end;
        errno = 0;
        const long long length = strtoll(shape, &end, 10);
        if (end == shape || errno || length < 0 || length > INT32_MAX || array->rank == NPY_MOST_RANK)
            return refused(array, "its shape cannot be read");
        array->shape[array->rank++] = length;
        for (shape = end; *shape == ',' || *shape == ' ';) shape++;
    }
    return MSQ_OK;
}

msq_status msq_npy_open(msq_npy *array, const char *path) {
    *array = (msq_npy){.path = path};
    array->stream = strcmp(path, "-") ? fopen(path, "rb") : stdin;
    if (array->stream == NULL) return msq_fail(MSQ_INPUT, "%.150s: %s", path, strerror(errno));
    const msq_status status = read_header(array);
    if (status) msq_npy_close(array);
    return status;
}

msq_status msq_npy_read(msq_npy *array, void *to, size_t bytes) {
    return fread(to, 1, bytes, array->stream) == bytes ? MSQ_OK : refused(array, "it ends before its last element");
}

void msq_npy_close(msq_npy *array) {
    if (array->stream && array->stream != stdin) fclose(array->stream);
    array->stream = NULL;
}

void msq_npy_write_header(FILE *stream, int32_t rank, const int64_t *shape) {
    char text[256] = "{'descr': '<f4', 'fortran_order': False, 'shape': (";
    size_t size = strlen(text);
    for (int32_t i = 0; i < rank; i++)
        size += (size_t)snprintf(text + size, sizeof text - size, "%lld,", (long long)shape[i]);
    size += (size_t)snprintf(text + size, sizeof text - size, "), }");
    const size_t padded = (10 + size + 1 + 63) / 64 * 64 - 10;
    const uint8_t begin[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (uint8_t)padded, (uint8_t)(padded >> 8)};
    fwrite(begin, 1, sizeof begin, stream);
    fprintf(stream, "%s%*s\n", text, (int)(padded - size - 1), "");
}
