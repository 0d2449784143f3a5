#include "cli/interrupt.h"

#include <signal.h>

namespace linnet::cli {
namespace {

volatile sig_atomic_t g_raised = 0;

}  // namespace

// Without SA_RESTART: a read from the terminal returns, too.
Interrupt::Interrupt(bool once) {
  g_raised = 0;
  struct sigaction action {};
  action.sa_handler = [](int) { g_raised = 1; };
  action.sa_flags = once ? SA_RESETHAND : 0;
  sigaction(SIGINT, &action, nullptr);
}

Interrupt::~Interrupt() { signal(SIGINT, SIG_DFL); }

bool Interrupt::raised() const { return g_raised != 0; }

void Interrupt::clear() { g_raised = 0; }

}  // namespace linnet::cli
