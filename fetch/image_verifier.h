// SPDX-License-Identifier: Apache-2.0
// Asks the programs of a directory whether an image may be used, by containerd's contract for image
// verifiers (docs/adr/0019-image-verifiers.md): each is run as
//   PROGRAM -name REFERENCE -digest DIGEST -stdin-media-type TYPE
// with the image's descriptor as JSON on its standard input. The image is allowed if every one of
// them ends with status 0; the standard output of one that does not is the reason.
//
// Thread-safe. Callers with the same question share one run (single-flight). What was allowed is
// remembered while this object lives, a denial never.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/cancel.h"
#include "base/digest.h"
#include "base/executor.h"
#include "base/flight.h"

namespace imagefs {

// True for a denial by ImageVerifier, also when it was annotated. Its code is kPermissionDenied,
// but no credential is wrong.
bool IsImageDenied(const absl::Status& status);

// A denial that names the image, the cause and the remedy.
absl::Status ImageDenied(std::string_view image, std::string_view cause, std::string_view remedy);

class ImageVerifier {
 public:
  struct Options {
    std::string directory;                       // "" = none: every image is denied
    absl::Duration timeout = absl::Seconds(10);  // of each program, in whole seconds
  };
  // What a name stands for: a manifest, or the index that lists it.
  struct Image {
    std::string name;  // a reference without the digest below
    std::string media_type;
    Digest digest;
    uint64_t size = 0;  // 0 = not known
  };

  explicit ImageVerifier(Options options);
  ~ImageVerifier() = default;  // waits for running programs; every caller should have left

  // `done` gets OK, a denial (IsImageDenied), or kCancelled. It runs at once for an image that was
  // allowed before, else on a thread of this object.
  FlightTicket Verify(Image image, absl::AnyInvocable<void(absl::Status)> done)
      ABSL_LOCKS_EXCLUDED(mu_);

  FlightReport Flights() const { return {"verify", flights_.counters(), flights_.Running()}; }
  void AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const;

 private:
  // The programs to run, in their order; an error says why no image can be allowed.
  absl::StatusOr<std::vector<std::string>> Programs() const;
  absl::Status RunAll(const Image& image, const CancelToken& cancel);
  absl::Status RunOne(const std::string& program, const Image& image, const CancelToken& cancel);
  void Remember(const std::string& key) ABSL_LOCKS_EXCLUDED(mu_);

  const Options options_;
  std::atomic<uint64_t> runs_{0}, allowed_{0}, denied_{0};
  FlightTable<bool> flights_{"verify"};
  absl::Mutex mu_;
  absl::flat_hash_set<std::string> allowed_before_ ABSL_GUARDED_BY(mu_);  // keys of flights
  Executor executor_;  // last: its tasks use the members above
};

}  // namespace imagefs
