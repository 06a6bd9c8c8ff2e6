// SPDX-License-Identifier: Apache-2.0
// Index: resolve the image, fetch all layers, wait until they are durable, make the index and
// publish it.
#include "base/cancel.h"
#include "base/status.h"
#include "base/text.h"
#include "cmd/publish.h"
#include "cmd/transfer_call.h"

namespace imagefs {
namespace {

using control::v1::MountEvent;

// Parses everything that is known before the image is resolved.
absl::StatusOr<PublishRequest> ParsePublish(const control::v1::IndexRequest& request,
                                            const ResolveRequest& image) {
  PublishRequest out;
  out.file = request.file();
  out.with_profile = request.profile();
  out.statement_only = request.statement_only();
  out.signatures.assign(request.signatures().begin(), request.signatures().end());
  out.statement_digest = request.statement_digest();
  out.access = image.access;
  if (!request.to().empty()) {
    IMAGEFS_ASSIGN_OR_RETURN(out.to, Reference::Parse(request.to()));
    const control::v1::Credential& credential = request.to_credential();
    out.access.credential.username = credential.username();
    out.access.credential.password = credential.password();
    out.access.credential.identity_token = credential.identity_token();
    out.access.credential_trouble = Printable(credential.trouble(), 1000);
    out.access.refresh = nullptr;  // that one is for the image
  } else if (request.push()) {
    if (image.reference.transport != Reference::Transport::kRegistry) {
      return absl::InvalidArgumentError(
          "an image that is not in a registry has no repository; name one with --to");
    }
    out.to = image.reference;
  }
  return out;
}

void FillIndex(const PublishResult& published, control::v1::IndexResult* out) {
  for (const PublishResult::Layer& layer : published.layers) {
    control::v1::IndexResult::Layer* one = out->add_layers();
    one->set_digest(layer.digest.ToString());
    one->set_blob_bytes(layer.blob_bytes);
    one->set_index_bytes(layer.index_bytes);
    one->set_reason(layer.reason);
  }
  out->set_artifact_digest(published.artifact);
  out->set_repository(published.repository);
  out->set_listed_by_tag(published.listed_by_tag);
  out->set_sent_bytes(published.sent_bytes);
  out->set_hot_pack_bytes(published.hot_pack_bytes);
  out->set_hot_pack_data_bytes(published.hot_pack_data_bytes);
  out->set_file(published.file);
  out->set_statement(published.statement);
  for (const std::string& id : published.signed_by) out->add_signed_by(id);
  for (const std::string& id : published.signatures_lost) out->add_signatures_lost(id);
}

class IndexCall : public TransferCall {
 public:
  IndexCall(const CallContext& context, grpc::CallbackServerContext* call,
            const control::v1::IndexRequest& request)
      : TransferCall(context, call, "index", request.progress()), request_(request) {}

 private:
  absl::Status Run() override;
  absl::Status Fetch(const ImageStore::Resolved& image);
  absl::Status Publish();
  absl::Status Answer(const PublishResult& published);

  const control::v1::IndexRequest& request_;  // gRPC keeps it until the call is done
  PublishRequest publish_;
  ImageRef image_;  // set by Fetch
};

absl::Status IndexCall::Run() {
  IMAGEFS_ASSIGN_OR_RETURN(ResolveRequest image, ParseImage(request_.image()));
  IMAGEFS_ASSIGN_OR_RETURN(publish_, ParsePublish(request_, image));
  return Resolve(std::move(image),
                 [this](const ImageStore::Resolved& found) { return Fetch(found); });
}

absl::Status IndexCall::Fetch(const ImageStore::Resolved& image) {
  IMAGEFS_RETURN_IF_ERROR(CheckIsImage(*image.image));
  IMAGEFS_RETURN_IF_ERROR(BeginLayers(image.image));
  image_ = publish_.image = image.image;
  publish_.source = image.source;
  return EnsureChain(image, IndexTrust::None(), [this](const ChainRef& chain) {
    return WaitDurable(chain, [this] { return Publish(); });
  });
}

absl::Status IndexCall::Publish() {
  IMAGEFS_RETURN_IF_ERROR(Begin("indexing", "index"));
  CancelSource cancel;
  WaitFor(FlightTicket([cancel]() mutable { cancel.Cancel(); }));
  deps().publications.Start(
      std::move(publish_), cancel.token(),
      Then<PublishResult>([this](const PublishResult& published) { return Answer(published); }));
  return absl::OkStatus();
}

absl::Status IndexCall::Answer(const PublishResult& published) {
  MountEvent event;
  control::v1::MountResult* result = event.mutable_result();
  FillImage(*image_, result->mutable_image());
  progress().FillLayers(result->mutable_layers());
  FillIndex(published, result->mutable_index());
  return Succeed(std::move(event));
}

}  // namespace

MountEventReactor* StartIndex(const CallContext& context, grpc::CallbackServerContext* call,
                              const control::v1::IndexRequest& request) {
  return TransferCall::Start(std::make_shared<IndexCall>(context, call, request));
}

}  // namespace imagefs
