/* What TVM cannot be asked to generate: misbehaviour, for kernels to call. */
#include <fenv.h>
#include <signal.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

int32_t wild_store(int32_t value) { *(volatile int32_t *)8 = value; return value; }

int32_t spin(int32_t unused) { for (volatile int32_t i = unused;;) i++; }

int32_t nap(int32_t milliseconds) { usleep(1000 * milliseconds); return milliseconds; }

int32_t count(int32_t unused) { static int32_t calls; (void)unused; return calls++; }

int32_t leave(int32_t status) { write(2, "so long\n", 8); _exit(status); }

/* -- processes ---------------------------------------------------------------------------------- */

static void sleeper(void) { sleep(120); _exit(0); }

int32_t leave_children(int32_t count) {
  for (int32_t i = 0; i < count; i++) if (!fork()) sleeper();
  return count;
}

int32_t leave_daemon(int32_t unused) {
  if (!fork()) {
    setsid();
    if (!fork()) sleeper();
    _exit(0);
  }
  usleep(20000); /* it has a new parent then */
  return unused;
}

int32_t leave_and_die(int32_t value) { leave_children(1); return wild_store(value); }

int32_t leave_and_spin(int32_t unused) { leave_children(1); return spin(unused); }

int32_t spin_deaf(int32_t unused) {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, 0);
  return spin(unused);
}

int32_t stop_here(int32_t unused) { raise(SIGSTOP); return unused; }

int32_t end_listener(int32_t left) { leave_daemon(left); kill(getppid(), SIGKILL); return left; }

int32_t stop_listener(int32_t value) { kill(getppid(), SIGSTOP); return wild_store(value); }

int32_t close_all(int32_t limit) { for (int32_t i = 0; i < limit; i++) close(i); return limit; }

/* -- floating-point state ------------------------------------------------------------------------ */

int32_t flush_to_zero(int32_t unused) {
#if defined(__x86_64__)
  _mm_setcsr(_mm_getcsr() | 0x8040);
#elif defined(__aarch64__)
  uint64_t word;
  __asm__("mrs %0, fpcr" : "=r"(word));
  __asm__("msr fpcr, %0" : : "r"(word | 1 << 24));
#endif
  return unused;
}

int32_t round_up(int32_t unused) { fesetround(FE_UPWARD); return unused; }

int32_t inexact(int32_t unused) { volatile double third = 1.0 / (3 + unused); return third > 0; }
int32_t fork_and_return(int32_t unused) { (void)unused; return (int32_t)fork() * 0; }

int32_t leave_child(int32_t milliseconds) {
  if (!fork()) { usleep(1000 * milliseconds); _exit(0); }
  return 0;
}
