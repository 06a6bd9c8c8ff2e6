// Makes a layer's index and span table of what somebody left of it: a published bundle, a table of
// contents, a zTOC. All of it is read, checked against the layer, disarmed (image/privileges.h) and
// written anew, so that what the kernel is given was written here. Works on unlinked files: memory
// is bounded by what the caller allots, whatever the files say.
//
// Pure but for the files. Thread-safe. Blocks on the disk and the processor.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "base/digest.h"
#include "base/fd.h"
#include "cache/chain.h"
#include "image/manifest.h"
#include "image/toc.h"

namespace imagefs {

// What is opened: a part of `file`, for a layer of an image.
struct IndexMaterial {
  int file = -1;
  ByteRange part;           // of the file
  Descriptor layer;         // the layer's blob
  Digest diff_id;           // of the layer
  uint64_t max_memory = 0;  // from IndexMemory, of the sizes below
};

// What opening takes of memory, at most, for `packed` bytes that unpack to `unpacked`.
uint64_t IndexMemory(uint64_t packed, uint64_t unpacked);
// The largest index that `memory` is enough for.
uint64_t LargestIndex(uint64_t memory);

class IndexOpener {
 public:
  // `directory`: where the unlinked files are made; it should be on the disk of the store.
  explicit IndexOpener(std::string directory) : directory_(std::move(directory)) {}

  // A new unlinked file, to be read and written.
  absl::StatusOr<Fd> NewFile() const;

  // The bytes that the material says that it unpacks to; opening ends with an error where it has
  // more.
  static absl::StatusOr<uint64_t> AnnouncedBundle(const IndexMaterial& bundle);
  static absl::StatusOr<uint64_t> AnnouncedToc(const IndexMaterial& toc, const TocLocation& where);

  // `published`: what the bundle has to be, byte by byte.
  absl::StatusOr<FoundIndexRef> OpenBundle(const IndexMaterial& bundle, const Digest& published,
                                           IndexSource source) const;
  absl::StatusOr<FoundIndexRef> OpenToc(const IndexMaterial& toc, const TocLocation& where) const;
  absl::StatusOr<FoundIndexRef> OpenZtoc(const IndexMaterial& ztoc, const Digest& published,
                                         IndexSource source) const;

 private:
  absl::StatusOr<FoundIndexRef> FromTable(TableLayer table, DataLayout layout, FoundIndex found,
                                          const Digest& diff_id) const;
  absl::Status WriteIndex(Tree& tree, const Digest& diff_id, uint64_t data_bytes,
                          FoundIndex& found) const;

  const std::string directory_;
};

}  // namespace imagefs
