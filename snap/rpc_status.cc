// SPDX-License-Identifier: Apache-2.0
#include "snap/rpc_status.h"

#include <grpcpp/grpcpp.h>

#include "base/text.h"

namespace imagefs {
namespace {

// gRPC refuses to send more than 8 KiB of trailing metadata, in which the message is
// percent-encoded.
constexpr size_t kMaxMessageBytes = 1500;

}  // namespace

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()),
                      Shortened(ToStd(status.message()), kMaxMessageBytes));
}

}  // namespace imagefs
