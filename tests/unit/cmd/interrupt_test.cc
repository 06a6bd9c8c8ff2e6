#include "cmd/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"

namespace imagefs {
namespace {

// In a process of its own, where no other thread takes the signal: 0 when all is as it should be.
int InterruptedOnce() {
  Interrupts interrupts;
  absl::Notification first;
  {
    Interrupts::Scope scope(interrupts, [&] { first.Notify(); });
    kill(getpid(), SIGINT);
    first.WaitForNotification();
  }
  if (!interrupts.interrupted()) return 1;
  // What begins after the interrupt learns of it at once, until it was answered.
  bool told = false;
  {
    Interrupts::Scope scope(interrupts, [&] { told = true; });
  }
  if (!told) return 2;
  interrupts.Forget();
  told = false;
  {
    Interrupts::Scope scope(interrupts, [&] { told = true; });
  }
  return told || interrupts.interrupted() ? 3 : 0;
}

void InterruptedWhileNothingRuns() {
  Interrupts interrupts;
  kill(getpid(), SIGTERM);
  while (true) pause();
}

TEST(InterruptsDeathTest, RunsTheActionOfWhatIsUnderWay) {
  EXPECT_EXIT(_exit(InterruptedOnce()), testing::ExitedWithCode(0), "");
}

TEST(InterruptsDeathTest, EndsTheProcessWhenNothingIs) {
  EXPECT_EXIT(InterruptedWhileNothingRuns(), testing::ExitedWithCode(kInterruptedExit), "");
}

}  // namespace
}  // namespace imagefs
