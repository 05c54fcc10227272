/* What TVM cannot be asked to generate: misbehaviour, for kernels to call. */
#include <stdint.h>
#include <unistd.h>

int32_t wild_store(int32_t value) { *(volatile int32_t *)8 = value; return value; }

int32_t spin(int32_t unused) { for (volatile int32_t i = unused;;) i++; }

int32_t nap(int32_t milliseconds) { usleep(1000 * milliseconds); return milliseconds; }

int32_t count(int32_t unused) { static int32_t calls; (void)unused; return calls++; }

int32_t leave(int32_t status) { write(2, "so long\n", 8); _exit(status); }

int32_t fork_and_return(int32_t unused) { (void)unused; return (int32_t)fork() * 0; }

int32_t leave_child(int32_t milliseconds) {
  if (!fork()) { usleep(1000 * milliseconds); _exit(0); }
  return 0;
}

int32_t close_all(int32_t unused) { for (int fd = 0; fd < 1024; fd++) close(fd); return unused; }
