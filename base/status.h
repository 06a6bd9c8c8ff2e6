// SPDX-License-Identifier: Apache-2.0
// All errors in the project are absl::Status. This header adds early-return macros and the mapping
// from and to errno.
//
// Callers act on the code:
// - kUnauthenticated, kPermissionDenied: the *caller's* credentials failed; never shared with
//   callers that use other credentials
// - kUnavailable, kDeadlineExceeded: transient; the flight retries
// - kDataLoss: bytes do not match their digest
// - kResourceExhausted: disk full, quota exceeded, too many requests
// - kInvalidArgument: the input is wrong; retrying cannot help
// - kCancelled: the result is no longer wanted
//
// A message names the object, the cause and, if there is one, the remedy, in one line.
#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace imagefs {

// Returns a Status for an errno value; the message is "<what>: <strerror>".
absl::Status ErrnoStatus(int error_number, std::string_view what);

// Returns the errno that a file system reports for `status`; 0 for OK.
int StatusToErrno(const absl::Status& status);

// Returns the same code and payloads with the message "<context>: <message>"; OK stays OK.
absl::Status Annotate(const absl::Status& status, std::string_view context);

// True for failures of the caller's credentials.
bool IsCredentialFailure(const absl::Status& status);

// True for errors that a later attempt may not encounter.
bool IsRetriable(const absl::Status& status);

}  // namespace imagefs

#define IMAGEFS_RETURN_IF_ERROR(expr)                                                         \
  do {                                                                                        \
    if (absl::Status imagefs_status_ = (expr); !imagefs_status_.ok()) return imagefs_status_; \
  } while (0)

#define IMAGEFS_CONCAT_INNER_(a, b) a##b
#define IMAGEFS_CONCAT_(a, b) IMAGEFS_CONCAT_INNER_(a, b)
#define IMAGEFS_ASSIGN_OR_RETURN(lhs, expr) \
  IMAGEFS_ASSIGN_OR_RETURN_IMPL_(IMAGEFS_CONCAT_(imagefs_statusor_, __LINE__), lhs, expr)
#define IMAGEFS_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                                   \
  if (!tmp.ok()) return std::move(tmp).status();       \
  lhs = *std::move(tmp)
