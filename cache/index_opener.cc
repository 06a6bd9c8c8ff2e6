// SPDX-License-Identifier: Apache-2.0
#include "cache/index_opener.h"

#include <fcntl.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "base/mapped_file.h"
#include "base/status.h"
#include "base/text.h"
#include "image/erofs_writer.h"
#include "image/index_bundle.h"
#include "image/privileges.h"
#include "image/span_table.h"
#include "image/zstd_frame.h"
#include "image/ztoc.h"

namespace imagefs {
namespace {

// For a well-formed index: the mapped file, and a tree of about twice its size. For a table of
// contents: the mapped text, and tree and spans of about one and a half times its size.
constexpr uint64_t kTimes = 3;
constexpr uint64_t kBaseBytes = 2 << 20;  // buffers
constexpr size_t kFrameHeadBytes = 18;

absl::StatusOr<Digest> DigestOf(const IndexMaterial& material) {
  Sha256 hash;
  std::string buffer(256 << 10, '\0');
  for (uint64_t at = material.part.begin; at < material.part.end;) {
    const size_t want = std::min<uint64_t>(buffer.size(), material.part.end - at);
    IMAGEFS_RETURN_IF_ERROR(
        PreadExact(material.file, absl::MakeSpan(buffer.data(), want), at, "what was fetched"));
    hash.Update(std::string_view(buffer.data(), want));
    at += want;
  }
  return hash.Finish();
}

absl::Status CheckDigest(const IndexMaterial& material, const Digest& published) {
  IMAGEFS_ASSIGN_OR_RETURN(const Digest digest, DigestOf(material));
  if (digest == published) return absl::OkStatus();
  return absl::DataLossError(
      StrCat("it should be ", published.ToString(), " but is ", digest.ToString()));
}

absl::StatusOr<std::string_view> PartOf(const MappedFile& file, const IndexMaterial& material) {
  if (material.part.begin > material.part.end || material.part.end > file.bytes().size()) {
    return absl::DataLossError("what was fetched is too short");
  }
  return file.bytes().substr(material.part.begin, material.part.size());
}

}  // namespace

uint64_t IndexMemory(uint64_t packed, uint64_t unpacked) {
  const uint64_t bytes = std::min(std::max(packed, unpacked), uint64_t{1} << 60);
  return kBaseBytes + kTimes * bytes;
}

uint64_t LargestIndex(uint64_t memory) {
  return memory <= kBaseBytes ? 0 : (memory - kBaseBytes) / kTimes;
}

absl::StatusOr<Fd> IndexOpener::NewFile() const {
  return OpenFile(directory_, O_TMPFILE | O_RDWR, 0600);
}

absl::StatusOr<uint64_t> IndexOpener::AnnouncedBundle(const IndexMaterial& bundle) {
  char head[kFrameHeadBytes];
  const size_t want = std::min<uint64_t>(sizeof(head), bundle.part.size());
  IMAGEFS_RETURN_IF_ERROR(PreadExact(bundle.file, absl::MakeSpan(head, want), bundle.part.begin,
                                     "the published index"));
  return ZstdFrameBytes(std::string_view(head, want));
}

absl::StatusOr<uint64_t> IndexOpener::AnnouncedToc(const IndexMaterial& toc,
                                                   const TocLocation& where) {
  char tail[4];
  if (toc.part.size() < sizeof(tail))
    return absl::DataLossError("its table of contents is truncated");
  IMAGEFS_RETURN_IF_ERROR(PreadExact(toc.file, absl::MakeSpan(tail), toc.part.end - sizeof(tail),
                                     "the table of contents"));
  return AnnouncedTocBytes(where, std::string_view(tail, sizeof(tail)));
}

absl::Status IndexOpener::WriteIndex(Tree& tree, const Digest& diff_id, uint64_t data_bytes,
                                     FoundIndex& found) const {
  RemovePrivileges(tree);
  IMAGEFS_ASSIGN_OR_RETURN(found.index, NewFile());
  IMAGEFS_ASSIGN_OR_RETURN(found.index_bytes,
                           WriteLayerIndex(tree, diff_id, data_bytes, found.index.get()));
  return absl::OkStatus();
}

absl::StatusOr<Digest> IndexOpener::WriteTable(const SpanTable& table, FoundIndex& found) const {
  IMAGEFS_ASSIGN_OR_RETURN(const std::string span_table, WriteSpanTable(table));
  IMAGEFS_ASSIGN_OR_RETURN(found.span_table, NewFile());
  IMAGEFS_RETURN_IF_ERROR(PwriteFull(found.span_table.get(), span_table, 0));
  return Sha256Of(span_table);
}

absl::StatusOr<FoundIndexRef> IndexOpener::FromTable(TableLayer table, DataLayout layout,
                                                     FoundIndex found,
                                                     const Digest& diff_id) const {
  IMAGEFS_RETURN_IF_ERROR(
      WriteIndex(table.layer.tree, diff_id, table.span_table.data_bytes, found));
  table.layer.tree = Tree();
  table.span_table.layout = layout;
  IMAGEFS_RETURN_IF_ERROR(WriteTable(table.span_table, found).status());
  found.prefetch = table.prefetch;
  return std::make_shared<const FoundIndex>(std::move(found));
}

absl::StatusOr<FoundIndexRef> IndexOpener::OpenBundle(const IndexMaterial& bundle,
                                                      const Digest& published,
                                                      IndexSource source) const {
  IMAGEFS_RETURN_IF_ERROR(CheckDigest(bundle, published));
  IMAGEFS_ASSIGN_OR_RETURN(const uint64_t announced, AnnouncedBundle(bundle));
  FoundIndex found;
  found.source = source;
  found.origin = "published";
  found.description =
      bundle.pages_from.empty()
          ? published
          : Sha256Of(StrCat(published.ToString(), "\npages of ", bundle.pages_from));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd index, NewFile());
  IMAGEFS_ASSIGN_OR_RETURN(found.span_table, NewFile());
  {
    IMAGEFS_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Map(bundle.file, "an index"));
    IMAGEFS_ASSIGN_OR_RETURN(const std::string_view packed, PartOf(file, bundle));
    absl::StatusOr<std::optional<PublishedWindows>> unpacked =
        UnpackBundle(packed, announced, bundle.layer.digest, index.get(), found.span_table.get());
    IMAGEFS_RETURN_IF_ERROR(file.CheckWhole("an index"));
    IMAGEFS_ASSIGN_OR_RETURN(found.windows, std::move(unpacked));
  }
  if (found.windows.has_value()) {
    found.windows->repository = bundle.repository;
    found.windows_source = bundle.source;
  }
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<SpanTableReader> span_table,
                           SpanTableReader::OpenFd(found.span_table.get(), "its span table"));
  if (span_table->late_windows() != found.windows.has_value() ||
      (found.windows.has_value() && span_table->windows().size() != found.windows->blob.size)) {
    return absl::DataLossError("its span table has other windows");
  }
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<ErofsImage> image,
                           ErofsImage::OpenFd(index.get(), "its tree"));
  // Windows that come later are a hole, which nobody reads.
  const uint64_t later = span_table->late_windows() ? span_table->windows().size() : 0;
  const uint64_t mapped = std::min<uint64_t>(span_table->bytes().size() - later, bundle.max_memory);
  IMAGEFS_ASSIGN_OR_RETURN(Tree tree,
                           TreeOfBundle(*image, *span_table, bundle.layer.digest, bundle.layer.size,
                                        bundle.diff_id, bundle.max_memory - mapped));
  IMAGEFS_RETURN_IF_ERROR(span_table->CheckWhole());
  image->DropResidentPages();
  IMAGEFS_RETURN_IF_ERROR(WriteIndex(tree, bundle.diff_id, span_table->data_bytes(), found));
  return std::make_shared<const FoundIndex>(std::move(found));
}

absl::StatusOr<FoundIndexRef> IndexOpener::OpenToc(const IndexMaterial& toc,
                                                   const TocLocation& where) const {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd unpacked, NewFile());
  OpenedToc opened;
  {
    IMAGEFS_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Map(toc.file, "an index"));
    IMAGEFS_ASSIGN_OR_RETURN(const std::string_view packed, PartOf(file, toc));
    absl::StatusOr<OpenedToc> found = imagefs::OpenToc(where, packed, unpacked.get());
    IMAGEFS_RETURN_IF_ERROR(file.CheckWhole("an index"));
    IMAGEFS_ASSIGN_OR_RETURN(opened, std::move(found));
  }
  FoundIndex found;
  found.source = IndexSource::kInImage;
  found.origin = where.kind == TocKind::kEstargz ? "eStargz" : "zstd:chunked";
  found.description = where.digest;
  IMAGEFS_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Map(unpacked.get(), "an index"));
  const std::string_view text = file.bytes().substr(opened.json.begin, opened.json.size());
  // The text stays mapped until parsing ends.
  const uint64_t mapped = std::min<uint64_t>(text.size(), toc.max_memory);
  IMAGEFS_ASSIGN_OR_RETURN(
      TableLayer table, BuildFromToc(where, text, std::move(opened.entry), toc.layer, toc.diff_id,
                                     toc.max_memory - mapped));
  IMAGEFS_RETURN_IF_ERROR(file.CheckWhole("an index"));
  file = MappedFile();
  return FromTable(std::move(table), DataLayout::kTable, std::move(found), toc.diff_id);
}

absl::StatusOr<FoundIndexRef> IndexOpener::OpenStored(LayerBuilder::Result layer,
                                                      const Descriptor& blob, const Digest& diff_id,
                                                      std::string_view repository) const {
  FoundIndex found;
  found.source = IndexSource::kUnverified;
  found.origin = "headers";
  SpanTable table = StoredSpanTable(blob.digest, blob.size);
  table.data_bytes = layer.data_size;
  table.moves = std::move(layer.moves);
  IMAGEFS_RETURN_IF_ERROR(WriteIndex(layer.tree, diff_id, layer.data_size, found));
  IMAGEFS_ASSIGN_OR_RETURN(const Digest index, Sha256OfFile(found.index.get()));
  IMAGEFS_ASSIGN_OR_RETURN(const Digest spans, WriteTable(table, found));
  found.description =
      Sha256Of(StrCat(index.ToString(), "\n", spans.ToString(), "\nbytes of ", repository));
  return std::make_shared<const FoundIndex>(std::move(found));
}

absl::StatusOr<FoundIndexRef> IndexOpener::OpenZtoc(const IndexMaterial& ztoc,
                                                    const Digest& published,
                                                    IndexSource source) const {
  IMAGEFS_RETURN_IF_ERROR(CheckDigest(ztoc, published));
  FoundIndex found;
  found.source = source;
  found.origin = "SOCI";
  found.description = published;
  IMAGEFS_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Map(ztoc.file, "an index"));
  IMAGEFS_ASSIGN_OR_RETURN(const std::string_view bytes, PartOf(file, ztoc));
  const uint64_t mapped = std::min<uint64_t>(bytes.size(), ztoc.max_memory);
  IMAGEFS_ASSIGN_OR_RETURN(
      TableLayer table, BuildFromZtoc(bytes, ztoc.layer, ztoc.diff_id, ztoc.max_memory - mapped));
  IMAGEFS_RETURN_IF_ERROR(file.CheckWhole("an index"));
  file = MappedFile();
  return FromTable(std::move(table), DataLayout::kForeignTar, std::move(found), ztoc.diff_id);
}

}  // namespace imagefs
