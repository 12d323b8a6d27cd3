/* What msq-run says, a JSON object a line. */
#ifndef MSQ_SAY_H
#define MSQ_SAY_H

void msq_say_string(const char *text);

/* Processors' governors and frequencies in kHz, temperatures in thousandths of a degree; empty where Linux tells none. */
void msq_say_conditions(void);

/* Note the highest level of memory so far, and let it begin anew where the kernel does that. */
void msq_mark_memory(void);

/* The highest level before the mark and after it, and what is held now: the process's own pages, and those of files. */
void msq_say_memory(void);

#endif
