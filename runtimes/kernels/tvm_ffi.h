/* The little of TVM's FFI that the hook needs, from apache-tvm-ffi 0.1, whose C interface is stable. Its functions are
 * found in libtvm_ffi, which is there wherever a model's library can be loaded. */
#ifndef MSQ_TVM_FFI_H
#define MSQ_TVM_FFI_H

#include <stdint.h>

enum {
    TVM_INT = 1,
    TVM_POINTER = 4,
    TVM_DLTENSOR = 7,
    TVM_FUNCTION = 68,
    TVM_TENSOR = 70,
};

/* A value, as arguments and results are passed. */
typedef struct {
    int32_t type;
    uint32_t padding; /* 0 */
    union {
        int64_t integer;
        void *pointer; /* of an object: counted references */
    };
} TVMAny;

typedef struct {
    void *data;
    int32_t device_type, device;
    int32_t rank;
    uint8_t code, bits;
    uint16_t lanes;
    const int64_t *shape;
    const int64_t *strides; /* NULL: dense */
    uint64_t byte_offset;
} DLTensor;

enum { DL_CPU = 1, DL_INT = 0, DL_UINT = 1 };

/* Every object begins so; a tensor's DLTensor follows. */
typedef struct {
    uint64_t references;
    int32_t type;
    uint32_t padding;
    void (*destroy)(void *self, int flags);
} TVMObject;

/* 0, or -1 with an error raised. */
typedef int TVMCall(void *self, const TVMAny *arguments, int32_t count, TVMAny *result);

int TVMFFIFunctionCreate(void *self, TVMCall *call, void (*destroy)(void *self), void **function);
int TVMFFIFunctionCall(void *function, const TVMAny *arguments, int32_t count, TVMAny *result);
int TVMFFIObjectIncRef(void *object);
int TVMFFIObjectDecRef(void *object);
void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message);

#endif
