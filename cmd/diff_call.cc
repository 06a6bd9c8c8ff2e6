// SPDX-License-Identifier: Apache-2.0
// Diff: open both images, one after the other, and stream the differences of their trees.
#include <algorithm>

#include "base/status.h"
#include "base/text.h"
#include "cmd/file_call.h"
#include "fs/tree_diff.h"

namespace imagefs {
namespace {

using control::v1::FileChange;
using control::v1::FileChanges;
using control::v1::MountEvent;

class DiffCall : public FileCall {
 public:
  DiffCall(const CallContext& context, grpc::CallbackServerContext* call,
           const control::v1::DiffRequest& request)
      : FileCall(context, call, "diff", request.progress()), request_(request) {}

 private:
  using Difference = TreeDiff::Difference;

  absl::Status Run() override;
  absl::Status Compare();
  // Fills a message and sends it, until everything is sent. `pins`: of the next piece of the files
  // that are being compared.
  absl::Status Step(Pins pins);
  // Compares the next piece. Returns false if it has to be waited for.
  absl::StatusOr<bool> ComparePiece(const Pins& pins);
  size_t PieceBytes() const {
    return std::min<uint64_t>(open_->before->size - offset_, kFileMessageBytes);
  }
  absl::Status Await();
  void Report(const Difference& found, FileChanges* changes, size_t* bytes) const;

  const control::v1::DiffRequest& request_;  // gRPC keeps it until the call is done
  Opened before_, after_;
  bool privileges_ = true;
  std::optional<TreeDiff> diff_;
  // The files that are being compared, and how far they are equal.
  std::optional<Difference> open_;
  uint64_t offset_ = 0;
};

absl::Status DiffCall::Run() {
  return OpenImage(request_.before(), request_.eager(), /*first=*/true, [this](Opened before) {
    before_ = std::move(before);
    return OpenImage(request_.after(), request_.eager(), /*first=*/false, [this](Opened after) {
      after_ = std::move(after);
      return Compare();
    });
  });
}

absl::Status DiffCall::Compare() {
  SetReference(StrCat(before_.image->reference, " ", after_.image->reference));
  privileges_ = IsProven(*before_.chain) && IsProven(*after_.chain);
  diff_.emplace(before_.chain, after_.chain, TreeDiff::Options{request_.times(), privileges_});
  return Step(std::nullopt);
}

absl::Status DiffCall::Step(Pins pins) {
  MountEvent event;
  FileChanges* const changes = event.mutable_changes();
  size_t bytes = 0;
  while (bytes < kFileMessageBytes) {
    if (open_.has_value()) {
      IMAGEFS_ASSIGN_OR_RETURN(const bool compared, ComparePiece(pins));
      if (!compared && bytes > 0) break;
      if (!compared) return Await();
      pins.reset();
      if (open_->compare_content) continue;
      Report(*open_, changes, &bytes);
      open_.reset();
      continue;
    }
    IMAGEFS_ASSIGN_OR_RETURN(std::optional<Difference> found, diff_->Next());
    if (!found.has_value()) {
      if (bytes > 0) break;
      event = MakeResult(*after_.image);
      event.mutable_result()->set_privileges_ignored(!privileges_);
      return Succeed(std::move(event));
    }
    if (found->compare_content) {
      open_ = *std::move(found);
      offset_ = 0;
    } else {
      Report(*found, changes, &bytes);
    }
  }
  return Send(std::move(event), [this] { return Step(std::nullopt); });
}

absl::StatusOr<bool> DiffCall::ComparePiece(const Pins& pins) {
  const size_t size = PieceBytes();
  const auto read = [&](const Opened& side, Nid nid) -> absl::StatusOr<std::string> {
    std::string out(size, '\0');
    IMAGEFS_RETURN_IF_ERROR(
        Annotate(ReadFile(*side.chain, nid, offset_, absl::MakeSpan(out), SpanOf(pins)),
                 StrCat(side.image->reference, ": ", PrintableName(open_->path))));
    return out;
  };
  if (!pins.has_value()) {
    for (const auto& [side, stat] :
         {std::pair(&before_, &*open_->before), std::pair(&after_, &*open_->after)}) {
      IMAGEFS_ASSIGN_OR_RETURN(const auto missing,
                               MissingParts(*side->chain, stat->nid, offset_, size));
      if (!missing.empty()) return false;
    }
  }
  IMAGEFS_ASSIGN_OR_RETURN(const std::string before, read(before_, open_->before->nid));
  IMAGEFS_ASSIGN_OR_RETURN(const std::string after, read(after_, open_->after->nid));
  offset_ += size;
  const bool same = before == after;
  if (!same) open_->what.push_back("content");
  if (!same || offset_ == open_->before->size) open_->compare_content = false;
  return true;
}

absl::Status DiffCall::Await() {
  IMAGEFS_ASSIGN_OR_RETURN(auto missing,
                           MissingParts(*before_.chain, open_->before->nid, offset_, PieceBytes()));
  IMAGEFS_ASSIGN_OR_RETURN(auto more,
                           MissingParts(*after_.chain, open_->after->nid, offset_, PieceBytes()));
  missing.insert(missing.end(), more.begin(), more.end());
  return AwaitParts(missing, PrintableName(open_->path),
                    [this](std::vector<ReadPin> arrived) { return Step(std::move(arrived)); });
}

void DiffCall::Report(const Difference& found, FileChanges* changes, size_t* bytes) const {
  const bool changed = found.before.has_value() && found.after.has_value();
  if (changed && found.what.empty()) return;  // the bytes were equal
  FileChange* const out = changes->add_changes();
  out->set_kind(changed ? "C" : found.after.has_value() ? "A" : "D");
  out->set_path(found.path);
  for (const std::string_view what : found.what) out->add_what(std::string(what));
  *bytes += out->ByteSizeLong();
}

}  // namespace

MountEventReactor* StartDiff(const CallContext& context, grpc::CallbackServerContext* call,
                             const control::v1::DiffRequest& request) {
  return TransferCall::Start(std::make_shared<DiffCall>(context, call, request));
}

}  // namespace imagefs
