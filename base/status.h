// Errors of the whole project are absl::Status. This header adds early return and the mapping from
// and to errno.
//
// Codes carry meaning that callers act on:
// - kUnauthenticated, kPermissionDenied: the *caller's* credentials failed; never shared in a
// flight
// - kUnavailable, kDeadlineExceeded: may pass by itself; the flight retries
// - kDataLoss: bytes did not have the digest they should have
// - kResourceExhausted: disk full, quota, too many requests
// - kInvalidArgument: the input is wrong and stays wrong
// - kCancelled: nobody wants the result any more
//
// A message names the thing, the cause and, where there is one, the remedy, in one line.
#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace imagefs {

// Status for an errno value; the message is "<what>: <strerror>".
absl::Status ErrnoStatus(int error_number, std::string_view what);

// The errno that a file system answers for a status; 0 for OK.
int StatusToErrno(const absl::Status& status);

// Same code, message "<context>: <message>"; OK stays OK.
absl::Status Annotate(const absl::Status& status, std::string_view context);

// True for failures of the caller's credentials.
bool IsCredentialFailure(const absl::Status& status);

// True for failures that a later attempt may not see.
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
