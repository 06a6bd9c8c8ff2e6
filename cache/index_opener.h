// SPDX-License-Identifier: Apache-2.0
// Builds a layer's index and span table from published material (an imagefs bundle, a table of
// contents, or a zTOC), or from the headers of its tar. All of it is read, checked against the
// layer, stripped of privileges (image/privileges.h) and rewritten, so that the kernel is given
// only files written locally. Uses unlinked files: memory is bounded by the caller's allotment,
// whatever the input claims.
//
// No side effects except files. Thread-safe. Blocks on the disk and the processor.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/digest.h"
#include "base/fd.h"
#include "cache/chain.h"
#include "image/layer_builder.h"
#include "image/manifest.h"
#include "image/span_table.h"
#include "image/toc.h"

namespace imagefs {

// The input: a part of `file`, for a layer of an image.
struct IndexMaterial {
  int file = -1;
  ByteRange part;           // of the file
  Descriptor layer;         // the layer's blob
  Digest diff_id;           // of the layer
  uint64_t max_memory = 0;  // from IndexMemory, for the sizes below
  // Who may give bytes of the layer before their spans come (cache/identity.h); "" = all whom every
  // user of an index trusts.
  std::string pages_from;
  // Who has the windows, and its name if it is not the repository of the layers (PublishedWindows).
  std::shared_ptr<ImageSource> source;
  std::string repository;
};

// Upper bound of the memory that opening takes for `packed` bytes that unpack to `unpacked`.
uint64_t IndexMemory(uint64_t packed, uint64_t unpacked);
// The size of the largest index that `memory` suffices for.
uint64_t LargestIndex(uint64_t memory);

class IndexOpener {
 public:
  // `directory`: where the unlinked files are created; it should be on the store's disk.
  explicit IndexOpener(std::string directory) : directory_(std::move(directory)) {}

  // Returns a new unlinked file, readable and writable.
  absl::StatusOr<Fd> NewFile() const;

  // Returns the unpacked size that the material announces; opening fails if it unpacks to more.
  static absl::StatusOr<uint64_t> AnnouncedBundle(const IndexMaterial& bundle);
  static absl::StatusOr<uint64_t> AnnouncedToc(const IndexMaterial& toc, const TocLocation& where);

  // `published`: the digest that the material must have.
  absl::StatusOr<FoundIndexRef> OpenBundle(const IndexMaterial& bundle, const Digest& published,
                                           IndexSource source) const;
  absl::StatusOr<FoundIndexRef> OpenToc(const IndexMaterial& toc, const TocLocation& where) const;
  absl::StatusOr<FoundIndexRef> OpenZtoc(const IndexMaterial& ztoc, const Digest& published,
                                         IndexSource source) const;
  // For a layer whose blob is its tar, of which only the headers were read, or its file. `diff_id`:
  // or the name that stands for it. `repository`: of the image, by whose images alone it may be
  // shared (cache/identity.h).
  absl::StatusOr<FoundIndexRef> OpenStored(LayerBuilder::Result layer, const Descriptor& blob,
                                           const Digest& diff_id,
                                           std::string_view repository) const;

 private:
  absl::StatusOr<FoundIndexRef> FromTable(TableLayer table, DataLayout layout, FoundIndex found,
                                          const Digest& diff_id) const;
  absl::Status WriteIndex(Tree& tree, const Digest& diff_id, uint64_t data_bytes,
                          FoundIndex& found) const;
  // Returns the digest of the table.
  absl::StatusOr<Digest> WriteTable(const SpanTable& table, FoundIndex& found) const;

  const std::string directory_;
};

}  // namespace imagefs
