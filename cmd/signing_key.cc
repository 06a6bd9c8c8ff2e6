// SPDX-License-Identifier: Apache-2.0
#include "cmd/signing_key.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include <string>
#include <utility>

#include "base/fd.h"
#include "base/secret.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/password_prompt.h"

namespace imagefs {
namespace {

// Text that grows up to a fixed capacity.
class SecretText {
 public:
  explicit SecretText(size_t capacity) : text_(capacity) {}
  bool full() const { return size_ == text_.size(); }
  // Where the next byte goes.
  char* end() { return text_.data() + size_; }
  size_t room() const { return text_.size() - size_; }
  void Grew(size_t by) { size_ += by; }
  std::string_view view() const { return text_.view().substr(0, size_); }

 private:
  SecretBuffer text_;
  size_t size_ = 0;
};

// A pipe may come from a program that asks its user for a password.
constexpr int kKeyPatienceMs = 120'000;

absl::Status ReadKeyFile(const std::string& path, SecretText& out) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenInput(path));
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return ErrnoStatus(errno, path);
  if (S_ISREG(st.st_mode) && (st.st_mode & 077) != 0) {
    char mode[8];
    snprintf(mode, sizeof(mode), "%04o", st.st_mode & 07777U);
    return absl::FailedPreconditionError(
        StrCat(path, ": a secret key that others may read (mode ", mode, "); chmod 600 ", path));
  }
  while (!out.full()) {
    IMAGEFS_ASSIGN_OR_RETURN(const size_t got, ReadInput(fd, absl::MakeSpan(out.end(), out.room()),
                                                         kKeyPatienceMs, path));
    if (got == 0) return absl::OkStatus();
    out.Grew(got);
  }
  return absl::InvalidArgumentError(
      StrCat(path, ": it is too long to be a secret key of minisign"));
}

absl::StatusOr<Secret> ReadKeyPassword(const std::string& path, Interrupts& interrupts) {
  absl::StatusOr<Secret> password = ReadPassword(StrCat("Password of ", Printable(path), ": "),
                                                 MinisignSecretKey::kMaxPasswordBytes, interrupts);
  if (absl::IsNotFound(password.status())) {
    return absl::FailedPreconditionError(
        "it has a password; give that on the standard input or run this on a terminal");
  }
  if (absl::IsInvalidArgument(password.status())) {
    return absl::InvalidArgumentError(
        StrCat("the password is longer than ", MinisignSecretKey::kMaxPasswordBytes, " bytes"));
  }
  return password;
}

}  // namespace

absl::StatusOr<MinisignSecretKey> ReadSigningKey(const std::string& path, Interrupts& interrupts) {
  if (prctl(PR_SET_DUMPABLE, 0) != 0) return ErrnoStatus(errno, "prctl(PR_SET_DUMPABLE)");
  SecretText file(MinisignSecretKey::kMaxFileBytes + 1);
  Secret password;
  IMAGEFS_RETURN_IF_ERROR(ReadKeyFile(path, file));
  absl::StatusOr<bool> locked = MinisignSecretKey::NeedsPassword(file.view());
  if (!locked.ok()) return Annotate(locked.status(), path);
  if (*locked) {
    absl::StatusOr<Secret> typed = ReadKeyPassword(path, interrupts);
    if (!typed.ok()) return Annotate(typed.status(), path);
    password = *std::move(typed);
  }
  absl::StatusOr<MinisignSecretKey> key = MinisignSecretKey::Parse(file.view(), password.view());
  if (!key.ok()) return Annotate(key.status(), path);
  return key;
}

}  // namespace imagefs
