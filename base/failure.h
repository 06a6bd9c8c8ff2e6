// SPDX-License-Identifier: Apache-2.0
// What a failure means to a script that called the command: the kinds of failure for which it acts
// differently. Each has a word, which is printed in JSON and sent over gRPC, and an exit status
// (docs/json.md). Pure functions.
//
// The code of a status decides where it can; where a code has several meanings, the status carries
// its kind as a payload, set where the error arises.
#pragma once

#include <optional>
#include <string_view>

#include "absl/status/status.h"

namespace imagefs {

enum class FailureKind {
  kOther,        // none of the others
  kUsage,        // wrong arguments
  kNotFound,     // an image, tag, mount or file does not exist
  kDenied,       // by credentials, permissions or a verifier
  kBusy,         // it is in use, pinned, taken, or held by another process
  kNoDaemon,     // none runs, starts or answers, or its configuration is invalid
  kNetwork,      // a registry or mirror cannot be reached or fails; a later attempt may succeed
  kTimeout,      // the caller's own limit
  kNoSpace,      // on the disk, or by the limit of the store
  kDamaged,      // bytes are not what their digest says
  kInterrupted,  // by the user
};

// Returns the kind that the payload names, else that of the code: kNotFound; kPermissionDenied and
// kUnauthenticated: kDenied; kAlreadyExists: kBusy; kUnavailable and kDeadlineExceeded: kNetwork;
// kDataLoss: kDamaged; all others: kOther. REQUIRES: `status` is not OK.
FailureKind KindOf(const absl::Status& status);
// Returns whether the status names its kind itself.
bool HasKind(const absl::Status& status);
// Returns `status` with that kind, which Annotate keeps. OK stays OK.
absl::Status WithKind(absl::Status status, FailureKind kind);

// "not_found", "no_daemon", ...
std::string_view KindName(FailureKind kind);
// Returns nullopt for anything that KindName does not return.
std::optional<FailureKind> ParseKind(std::string_view name);

// The exit status of a command that fails in this way.
int ExitStatusOf(FailureKind kind);

}  // namespace imagefs
