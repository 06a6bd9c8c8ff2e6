// Makes the indexes of an image's layers and gives them away: to the image's repository, to another
// one, or into a file (docs/formats/published.md).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "base/cancel.h"
#include "base/executor.h"
#include "cache/image_store.h"
#include "fetch/source.h"

namespace imagefs {

struct PublishRequest {
  ImageStore::ImageRef image;
  std::shared_ptr<ImageSource> source;
  std::optional<Reference> to;   // push there; only the repository counts
  SourceFactory::Access access;  // with this
  std::string file;              // write an OCI archive there; "" = do not
  bool with_profile = false;
  bool only_if_absent = false;  // push nothing where an index lies already
};

struct PublishResult {
  struct Layer {
    Digest digest;
    uint64_t blob_bytes = 0;
    uint64_t index_bytes = 0;  // as published; 0 = not
    std::string reason;        // why not
  };
  std::vector<Layer> layers;
  std::string artifact;    // digest of the artifact's manifest
  std::string repository;  // that it was pushed to, "" = none
  bool listed_by_tag = false;
  bool absent = true;  // with only_if_absent: whether there was none
  uint64_t sent_bytes = 0;
  std::string file;
};

// `done` runs once, on any thread. The parts must outlive it.
void Publish(ImageStore& store, SourceFactory& sources, Executor& executor, PublishRequest request,
             CancelToken cancel, absl::AnyInvocable<void(absl::StatusOr<PublishResult>)> done);

}  // namespace imagefs
