// SPDX-License-Identifier: Apache-2.0
// The common part of the calls that read files of images without a mount: Files and Diff. Included
// only by their .cc files, because it includes gRPC.
//
// An image is resolved and its layers are fetched, or made readable, as for a mount; its chain is
// pinned until the call ends. Bytes are read by the functions that FUSE uses (fs/chain_read.h), so
// what a mount would not show is not sent either. No thread waits for bytes that are not local.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "base/cancel.h"
#include "cmd/transfer_call.h"
#include "fs/chain_read.h"

namespace imagefs {

// About the size of a message, and the most that is read of a file at once.
inline constexpr size_t kFileMessageBytes = 256 << 10;

class FileCall : public TransferCall {
 protected:
  FileCall(const CallContext& context, grpc::CallbackServerContext* call, const char* verb,
           bool progress);

  struct Opened {
    ImageRef image;
    ChainRef chain;
  };
  // Of parts that were waited for; none if nothing was.
  using Pins = std::optional<std::vector<ReadPin>>;
  static absl::Span<const ReadPin> SpanOf(const Pins& pins) {
    return pins.has_value() ? absl::MakeConstSpan(*pins) : absl::Span<const ReadPin>();
  }
  // Resolves an image and makes its tree readable. `eager`: all of its layers are proven, and
  // local. `first`: the progress shows its layers; for one image of a call.
  absl::Status OpenImage(const control::v1::ImageRequest& request, bool eager, bool first,
                         Next<Opened> next);
  // Waits until these parts are local, then runs `next` on the executor with the pins to read them
  // with. `what` names the file in an error.
  absl::Status AwaitParts(const std::vector<std::pair<LayerRef, ByteRange>>& missing,
                          std::string what, Next<std::vector<ReadPin>> next);

 private:
  absl::Status EnsureReadable(const ImageStore::Resolved& image, IndexTrust trust, bool again,
                              Next<Opened> next);

  CancelSource cancel_;  // fires if the caller goes away
};

}  // namespace imagefs
