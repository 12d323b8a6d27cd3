/* SHA-256 (FIPS 180-4). */
#ifndef MSQ_SHA256_H
#define MSQ_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

extern const uint32_t MSQ_SHA256_ROUND[64];

/* Mix so many blocks of 64 bytes into the state. */
typedef void (*msq_sha256_mix)(uint32_t state[8], const uint8_t *bytes, size_t blocks);

/* By the processor's own instructions; NULL where it has none. */
msq_sha256_mix msq_sha256_instructions(void);

/* The digest of `size` bytes as 64 hex digits and a 0. */
void msq_sha256(const uint8_t *bytes, size_t size, char hex[65]);

#endif
