// SPDX-License-Identifier: Apache-2.0
// Converts statuses to and from gRPC, whose codes are the same as absl's.
#pragma once

#include "absl/status/status.h"

namespace grpc {
class Status;
}

namespace imagefs {

// The trailing metadata that marks an answer of our own daemon.
inline constexpr char kAnswerMark[] = "imagefs";

absl::Status FromGrpc(const grpc::Status& status);
// Cuts the middle out of a message that is longer than gRPC sends.
grpc::Status ToGrpc(const absl::Status& status);

}  // namespace imagefs
