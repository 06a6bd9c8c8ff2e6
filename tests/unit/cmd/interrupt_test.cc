// SPDX-License-Identifier: Apache-2.0
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

// A reminder runs once, and not after its end; an interrupt has nothing to do with it.
int Reminded() {
  Interrupts interrupts;
  absl::Notification said;
  {
    Interrupts::Reminder reminder(interrupts, std::chrono::milliseconds(1), [&] { said.Notify(); });
    said.WaitForNotification();
  }
  {
    Interrupts::Reminder reminder(interrupts, std::chrono::hours(1), [] { _exit(2); });
  }
  absl::Notification again;
  Interrupts::Reminder reminder(interrupts, std::chrono::milliseconds(1), [&] { again.Notify(); });
  again.WaitForNotification();
  return interrupts.interrupted() ? 1 : 0;
}

TEST(InterruptsDeathTest, AWaitThatIsLongIsToldOnce) {
  EXPECT_EXIT(_exit(Reminded()), testing::ExitedWithCode(0), "");
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
  EXPECT_EXIT(InterruptedWhileNothingRuns(), testing::ExitedWithCode(130), "");
}

}  // namespace
}  // namespace imagefs
