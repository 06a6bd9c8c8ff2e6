// SPDX-License-Identifier: Apache-2.0
// Linked into the unit tests of the tsan preset. Debian's Abseil is built without ThreadSanitizer,
// which then sees no absl::Mutex at all and takes everything that one guards for a data race. The
// functions of absl::Mutex that the project uses are defined here once more, so that they come
// before those of the shared library: they tell ThreadSanitizer and call the real ones.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "absl/base/config.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

namespace {

#define TEXT_INNER(name) #name
#define TEXT(name) TEXT_INNER(name)

// The function of the library whose mangled name ends with `name` after the namespaces.
void* Real(const char* name) {
  const std::string space = TEXT(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  const std::string mangled = "_ZN4absl" + std::to_string(space.size()) + space + name;
  void* const function = dlsym(RTLD_NEXT, mangled.c_str());
  if (function == nullptr) abort();
  return function;
}

// The same of a const member function.
void* RealConst(const char* name) {
  const std::string space = TEXT(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  const std::string mangled = "_ZNK4absl" + std::to_string(space.size()) + space + name;
  void* const function = dlsym(RTLD_NEXT, mangled.c_str());
  if (function == nullptr) abort();
  return function;
}

template <typename R, typename... Args>
R (*As(void* function))
(Args...) {
  return reinterpret_cast<R (*)(Args...)>(function);
}

constexpr unsigned kWrite = __tsan_mutex_not_static;
constexpr unsigned kRead = __tsan_mutex_not_static | __tsan_mutex_read_lock;

void Unlocked(void* mu, unsigned flags) {
  __tsan_mutex_pre_unlock(mu, flags);
  __tsan_mutex_post_unlock(mu, flags);
}

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

// What runs between a pre and its post, conditions of other waiters among it, is not looked at.
void Mutex::Lock() {
  static const auto real = As<void, Mutex*>(Real("5Mutex4LockEv"));
  __tsan_mutex_pre_lock(this, kWrite);
  real(this);
  __tsan_mutex_post_lock(this, kWrite, 0);
}

bool Mutex::LockWhenWithTimeout(const Condition& condition, Duration timeout) {
  static const auto real = As<bool, Mutex*, const Condition&, Duration>(
      Real("5Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE"));
  __tsan_mutex_pre_lock(this, kWrite);
  const bool holds = real(this, condition, timeout);
  __tsan_mutex_post_lock(this, kWrite, 0);
  return holds;
}

void Mutex::Unlock() {
  static const auto real = As<void, Mutex*>(Real("5Mutex6UnlockEv"));
  __tsan_mutex_pre_unlock(this, kWrite);
  real(this);
  __tsan_mutex_post_unlock(this, kWrite);
}

void Mutex::ReaderLock() {
  static const auto real = As<void, Mutex*>(Real("5Mutex10ReaderLockEv"));
  __tsan_mutex_pre_lock(this, kRead);
  real(this);
  __tsan_mutex_post_lock(this, kRead, 0);
}

void Mutex::ReaderUnlock() {
  static const auto real = As<void, Mutex*>(Real("5Mutex12ReaderUnlockEv"));
  __tsan_mutex_pre_unlock(this, kRead);
  real(this);
  __tsan_mutex_post_unlock(this, kRead);
}

void Mutex::LockWhen(const Condition& condition) {
  static const auto real =
      As<void, Mutex*, const Condition&>(Real("5Mutex8LockWhenERKNS0_9ConditionE"));
  __tsan_mutex_pre_lock(this, kWrite);
  real(this, condition);
  __tsan_mutex_post_lock(this, kWrite, 0);
}

void Mutex::ReaderLockWhen(const Condition& condition) {
  static const auto real =
      As<void, Mutex*, const Condition&>(Real("5Mutex14ReaderLockWhenERKNS0_9ConditionE"));
  __tsan_mutex_pre_lock(this, kRead);
  real(this, condition);
  __tsan_mutex_post_lock(this, kRead, 0);
}

void Mutex::Await(const Condition& condition) {
  static const auto real =
      As<void, Mutex*, const Condition&>(Real("5Mutex5AwaitERKNS0_9ConditionE"));
  Unlocked(this, kWrite);
  __tsan_mutex_pre_lock(this, kWrite);
  real(this, condition);
  __tsan_mutex_post_lock(this, kWrite, 0);
}

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  // The library's own would come back here by AwaitWithDeadline.
  return AwaitWithDeadline(condition, Now() + timeout);
}

bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  static const auto real = As<bool, Mutex*, const Condition&, Time>(
      Real("5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE"));
  Unlocked(this, kWrite);
  __tsan_mutex_pre_lock(this, kWrite);
  const bool met = real(this, condition, deadline);
  __tsan_mutex_post_lock(this, kWrite, 0);
  return met;
}

void CondVar::Wait(Mutex* mu) {
  static const auto real = As<void, CondVar*, Mutex*>(Real("7CondVar4WaitEPNS0_5MutexE"));
  Unlocked(mu, kWrite);
  __tsan_mutex_pre_lock(mu, kWrite);
  real(this, mu);
  __tsan_mutex_post_lock(mu, kWrite, 0);
}

void Notification::Notify() {
  static const auto real = As<void, Notification*>(Real("12Notification6NotifyEv"));
  __tsan_release(this);
  real(this);
}

void Notification::WaitForNotification() const {
  static const auto real =
      As<void, const Notification*>(RealConst("12Notification19WaitForNotificationEv"));
  real(this);
  __tsan_acquire(const_cast<Notification*>(this));
}

ABSL_NAMESPACE_END
}  // namespace absl
