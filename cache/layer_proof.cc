// SPDX-License-Identifier: Apache-2.0
#include "cache/layer_proof.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <utility>

#include "base/status.h"
#include "base/text.h"
#include "cache/span_table_maker.h"
#include "image/erofs_reader.h"
#include "image/erofs_writer.h"
#include "image/privileges.h"
#include "image/tree_check.h"

namespace imagefs {
namespace {

absl::Status Link(const std::string& from, const std::string& to) {
  return link(from.c_str(), to.c_str()) == 0 ? absl::OkStatus() : ErrnoStatus(errno, to);
}

absl::StatusOr<Fd> Unnamed(const std::string& directory) {
  return OpenFile(directory, O_TMPFILE | O_RDWR, 0600);
}

bool SameMoves(const std::vector<LayerBuilder::Move>& a, const std::vector<LayerBuilder::Move>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& one, const auto& other) {
    return one.from == other.from && one.to == other.to && one.length == other.length;
  });
}

absl::StatusOr<Tree> TreeWithoutPrivileges(const std::string& index) {
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<ErofsImage> image, ErofsImage::Open(index));
  IMAGEFS_ASSIGN_OR_RETURN(Tree tree, image->ToTree());
  RemovePrivileges(tree);
  return tree;
}

absl::Status DescriptionMismatch() {
  return absl::DataLossError(
      "the index that it was mounted with does not match its tar; whoever published the index made "
      "a mistake, or lied");
}

absl::StatusOr<bool> HaveSameBytes(const Fd& a, const Fd& b) {
  IMAGEFS_ASSIGN_OR_RETURN(const Digest one, Sha256OfFile(a.get()));
  IMAGEFS_ASSIGN_OR_RETURN(const Digest other, Sha256OfFile(b.get()));
  return one == other;
}

// Checks that the description gives exactly the index that the tar gives, except for what
// RemovePrivileges removes.
absl::Status CheckIndex(const std::string& given, const std::string& directory,
                        const Digest& diff_id, uint64_t data_bytes) {
  IMAGEFS_ASSIGN_OR_RETURN(const Tree tree, TreeWithoutPrivileges(directory + "/index"));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd expected, Unnamed(directory));
  IMAGEFS_RETURN_IF_ERROR(WriteLayerIndex(tree, diff_id, data_bytes, expected.get()).status());
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenFile(given, O_RDONLY));
  IMAGEFS_ASSIGN_OR_RETURN(const bool same, HaveSameBytes(fd, expected));
  return same ? absl::OkStatus() : DescriptionMismatch();
}

// What is no tar of an image is known by its blob, which is hashed nowhere but in the data file.
absl::StatusOr<LayerForm> FormWithContent(const UnprovenLayer& layer) {
  LayerForm form = layer.form;
  if (form.is_tar()) return form;
  const Digest& blob = layer.span_table.blob_digest();
  if (!layer.span_table.data_is_blob() || (!form.content.empty() && form.content != blob)) {
    return absl::DataLossError("its content is not that of its blob");
  }
  form.content = blob;
  return form;
}

// The data file is the tar: hashes and parses it in place.
absl::StatusOr<ProvenLayer> ProveInPlace(const UnprovenLayer& layer, const std::string& into,
                                         const CancelToken& cancel) {
  IMAGEFS_ASSIGN_OR_RETURN(const LayerForm form, FormWithContent(layer));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd data, OpenFile(layer.directory + "/data", O_RDONLY));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd index,
                           OpenFile(into + "/index", O_RDWR | O_CREAT | O_EXCL, 0600));
  ProvenLayer proven;
  absl::StatusOr<LayerOutput> made =
      IndexData(data.get(), layer.span_table.tar_bytes(), form, layer.diff_id, index.get(), cancel);
  // The expected digest is that of the blob, and the headers were read once before.
  if (absl::IsDataLoss(made.status()) && layer.span_table.data_is_blob()) {
    return Annotate(made.status(),
                    "the registry, or what is between, sent other bytes than those of "
                    "the blob");
  }
  IMAGEFS_ASSIGN_OR_RETURN(proven.made, std::move(made));
  // Check the moves, too: the bytes they copy are not part of the hashed tar.
  if (proven.made.data_bytes != layer.span_table.data_bytes() ||
      !SameMoves(proven.made.moves, layer.span_table.moves())) {
    return DescriptionMismatch();
  }
  IMAGEFS_RETURN_IF_ERROR(
      CheckIndex(layer.directory + "/index", into, layer.diff_id, proven.made.data_bytes));
  IMAGEFS_RETURN_IF_ERROR(Link(layer.directory + "/data", into + "/data"));
  proven.has_access = layer.span_table.has_digests();
  if (proven.has_access) {
    IMAGEFS_RETURN_IF_ERROR(Link(layer.directory + "/access", into + "/access"));
  } else {
    proven.made.points = PointsOf(layer.span_table);
  }
  IMAGEFS_ASSIGN_OR_RETURN(const Fd shown, OpenFile(layer.directory + "/index", O_RDONLY));
  proven.shown.data = proven.made.sums.data;
  IMAGEFS_ASSIGN_OR_RETURN(proven.shown.index, Crc32cOfFile(shown.get()));
  return proven;
}

// The data file has a layout of its own: makes the layer by a pass over the blob and compares every
// file.
absl::StatusOr<ProvenLayer> ProveByPass(const UnprovenLayer& layer, const std::string& into,
                                        const CancelToken& cancel) {
  const uint64_t size = layer.span_table.blob_size();
  const int blob = layer.blob.get();
  auto read = [blob, size](absl::Span<char> buffer, uint64_t offset) {
    return PreadPart(blob, 0, size, buffer, offset);
  };
  std::atomic<uint64_t> unpacked{0};
  ProvenLayer proven;
  const LayerInput input{
      layer.span_table.blob_digest(), size, layer.diff_id, read, {}, layer.windows, layer.space};
  IMAGEFS_ASSIGN_OR_RETURN(proven.made, MakeLayer(input, into, cancel, unpacked));
  IMAGEFS_ASSIGN_OR_RETURN(const Tree described, TreeWithoutPrivileges(layer.directory + "/index"));
  IMAGEFS_ASSIGN_OR_RETURN(const Tree own, TreeWithoutPrivileges(into + "/index"));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd described_data, OpenFile(layer.directory + "/data", O_RDONLY));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd own_data, OpenFile(into + "/data", O_RDONLY));
  IMAGEFS_RETURN_IF_ERROR(
      CheckDescription({described, described_data.get()}, {own, own_data.get()}));
  IMAGEFS_ASSIGN_OR_RETURN(proven.shown, SumsOfLayer(layer.directory));
  return proven;
}

}  // namespace

absl::StatusOr<ProvenLayer> ProveLayer(const UnprovenLayer& layer, const std::string& into,
                                       const CancelToken& cancel) {
  const bool in_place = layer.span_table.layout() == DataLayout::kTar || !layer.form.is_tar();
  return in_place ? ProveInPlace(layer, into, cancel) : ProveByPass(layer, into, cancel);
}

absl::StatusOr<LayerSums> CheckRefilled(const std::string& directory, const LayerForm& form,
                                        const Digest& diff_id, uint64_t tar_bytes,
                                        const CancelToken& cancel) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd data, OpenFile(directory + "/data", O_RDONLY));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd index, OpenFile(directory + "/index", O_RDONLY));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd own, Unnamed(directory));
  IMAGEFS_ASSIGN_OR_RETURN(const LayerOutput made,
                           IndexData(data.get(), tar_bytes, form, diff_id, own.get(), cancel));
  IMAGEFS_ASSIGN_OR_RETURN(const bool same, HaveSameBytes(index, own));
  if (!same) return absl::DataLossError("its index no longer matches its tar");
  return made.sums;
}

absl::Status RestoreIndex(const std::string& directory, const LayerForm& form,
                          const Digest& diff_id, uint64_t tar_bytes, uint32_t sum,
                          const CancelToken& cancel) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd data, OpenFile(directory + "/data", O_RDONLY));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd own, Unnamed(directory));
  IMAGEFS_ASSIGN_OR_RETURN(const LayerOutput made,
                           IndexData(data.get(), tar_bytes, form, diff_id, own.get(), cancel));
  if (made.sums.index != sum) {
    return absl::DataLossError("its data does not give the index that was recorded");
  }
  IMAGEFS_ASSIGN_OR_RETURN(const Fd index, OpenFile(directory + "/index", O_RDWR | O_CREAT));
  IMAGEFS_RETURN_IF_ERROR(CopyDifferences(own.get(), index.get()));
  IMAGEFS_RETURN_IF_ERROR(FsyncFd(index.get(), directory + "/index"));
  return FsyncDir(directory);
}

}  // namespace imagefs
