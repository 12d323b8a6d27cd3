/* Counts the instructions that an emulated arm64 program executes, as a plugin of qemu-user (plugin API version 1, of
 * QEMU 4.2 to 8.2). Whenever the program calls sched_yield, a line on stderr says how many it has executed so far, and
 * how many of them multiply vectors. Counts are exact for a program of one running thread: a block that was entered is
 * executed to its end, and a system call ends a block. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* What is used of the plugin API, declared here because no package has its header. */
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { ADD_U64 = 0 };
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *instruction);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*call)(uint64_t id, struct qemu_plugin_tb *block));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *block, int operation, void *at, uint64_t operand);
void qemu_plugin_register_vcpu_syscall_cb(uint64_t id, void (*call)(uint64_t, unsigned, int64_t, uint64_t, uint64_t,
                                                                    uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                                                                    uint64_t));

#define EXPORT __attribute__((visibility("default")))

enum { SCHED_YIELD = 124 }; /* of arm64 Linux */

static uint64_t executed, products;

/* Whether an instruction multiplies vectors of integers: mla, mul, smull, smlal, sdot, smmla and their like. */
static int multiplies(uint32_t word) {
    const uint32_t kind = word & 0x9f200c00, opcode = word >> 12 & 0xf;
    if (kind == 0x0e200000) return opcode == 8 || opcode == 12;                          /* smlal, smull */
    if ((word & 0x9f20f400) == 0x0e209400) return 1;                                     /* mla, mul */
    if ((word & 0x9f208400) == 0x0e008400) return opcode == 9 || opcode == 10;           /* sdot, smmla */
    if ((word & 0x9f000400) == 0x0f000000) return 0xc555u >> opcode & 1; /* by element */
    return 0;
}

static void on_block(uint64_t id, struct qemu_plugin_tb *block) {
    const size_t count = qemu_plugin_tb_n_insns(block);
    uint64_t found = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
        found += (uint64_t)multiplies(word);
    }
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &executed, count);
    if (found) qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &products, found);
}

static void on_call(uint64_t id, unsigned cpu, int64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                    uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
    if (number == SCHED_YIELD)
        fprintf(stderr, "counted %llu %llu\n", (unsigned long long)executed, (unsigned long long)products);
}

EXPORT int qemu_plugin_version = 1;

EXPORT int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv) {
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_block);
    qemu_plugin_register_vcpu_syscall_cb(id, on_call);
    return 0;
}
