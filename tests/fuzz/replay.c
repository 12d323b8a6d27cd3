/* A fuzz target without a fuzzer: runs it on files, and prints what came of each. */
#include "fuzz.h"

static void replay(const char *path) {
    FILE *file = fopen(path, "rb");
    must(file && fseek(file, 0, SEEK_END) == 0);
    const size_t size = (size_t)ftell(file);
    rewind(file);
    uint8_t *data = malloc(size + 1);
    must(data && fread(data, 1, size, file) == size);
    fclose(file);
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    printf("%s\t%d\t%s\n", path, fuzz_status, fuzz_status ? msq_error() : "");
    fflush(stdout);
}

int main(int count, char **paths) {
    for (int i = 1; i < count; i++) replay(paths[i]);
    return 0;
}
