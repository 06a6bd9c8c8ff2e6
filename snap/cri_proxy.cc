// SPDX-License-Identifier: Apache-2.0
#include "snap/cri_proxy.h"

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "base/secret.h"
#include "base/status.h"
#include "base/text.h"
#include "proto/cri.pb.h"

namespace imagefs {
namespace {

// containerd's own limit is 16 MiB per message.
constexpr int kMaxMessageBytes = 64 << 20;
constexpr int kMaxReconnectMs = 1000;
constexpr int64_t kShutdownGraceSeconds = 1;

using grpc::ByteBuffer;

// Returns the method's name in a CRI service ("ImageService/PullImage"), or "" for any other path.
std::string_view CriMethod(std::string_view path) {
  if (!ConsumePrefix(&path, "/runtime.v1.") && !ConsumePrefix(&path, "/runtime.v1alpha2.")) {
    return {};
  }
  return path.starts_with("ImageService/") || path.starts_with("RuntimeService/")
             ? path
             : std::string_view();
}

// Headers that gRPC creates for each connection.
bool IsHopByHop(std::string_view name) {
  return name.starts_with(':') || name.starts_with("grpc-") || name == "user-agent" ||
         name == "content-type" || name == "te" || name == "host" || name == "connection";
}

std::string_view View(const grpc::string_ref& text) { return {text.data(), text.size()}; }

template <typename Message>
bool Parse(const ByteBuffer& bytes, Message* out) {
  std::vector<grpc::Slice> slices;
  if (!bytes.Dump(&slices).ok()) return false;
  std::string text;
  const WipeAtEnd wipe(text);
  text.reserve(bytes.Length());
  for (const grpc::Slice& slice : slices) {
    text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return out->ParseFromString(text);
}

// Uses the first kind that is set, like containerd.
Credential CredentialOf(const runtime::v1::AuthConfig& auth) {
  Credential out;
  if (!auth.username().empty()) {
    out.username = auth.username();
    out.password = auth.password();
  } else if (!auth.identity_token().empty()) {
    out.identity_token = auth.identity_token();
  } else if (!auth.auth().empty()) {
    DecodeUserAndPassword(auth.auth(), &out);
  } else {
    out.registry_token = auth.registry_token();
  }
  return out;
}

// Observes one forwarded call and updates NodeCredentials.
class Observer {
 public:
  Observer(NodeCredentials& credentials, std::string_view method)
      : credentials_(credentials),
        pull_(method == "ImageService/PullImage"),
        remove_(method == "ImageService/RemoveImage") {}

  void OnRequest(const ByteBuffer& bytes) {
    if (pull_) {
      runtime::v1::PullImageRequest request;
      if (!Parse(bytes, &request)) return;
      absl::StatusOr<Reference> image = Reference::Parse(request.image().image());
      if (!image.ok()) return;
      image_ = *std::move(image);
      credential_ = CredentialOf(request.auth());
      // Before containerd pulls, because it calls the snapshotter during the pull.
      credentials_.Remember(*image_, credential_);
    } else if (remove_) {
      runtime::v1::RemoveImageRequest request;
      if (Parse(bytes, &request)) removed_ = request.image().image();
    }
  }

  void OnResponse(const ByteBuffer& bytes) {
    runtime::v1::PullImageResponse response;
    if (pull_ && image_ && Parse(bytes, &response)) id_ = response.image_ref();
  }

  void OnEnd(bool ok) {
    if (ok && !removed_.empty()) credentials_.Forget(removed_);
    if (!image_) return;
    if (ok) {
      credentials_.RememberId(*image_, id_);
    } else {
      credentials_.TakeBack(*image_, credential_);
    }
  }

 private:
  NodeCredentials& credentials_;
  const bool pull_, remove_;
  std::optional<Reference> image_;
  Credential credential_;
  std::string id_, removed_;
};

// One forwarded call. Every CRI method has one request, and one response or a stream of them. So
// the proxy reads the request, sends it together with the end of the stream, and then forwards the
// responses one by one, reading each after the previous one has been written. The two sides are
// therefore never active concurrently, except for cancellation.
class ProxyCall : public grpc::ServerGenericBidiReactor {
 public:
  static ProxyCall* Start(grpc::GenericStub& stub, NodeCredentials& credentials,
                          grpc::GenericCallbackServerContext* context) {
    auto call = std::make_shared<ProxyCall>(stub, credentials, context);
    call->self_ = call;
    call->Begin();
    return call.get();
  }

  ProxyCall(grpc::GenericStub& stub, NodeCredentials& credentials,
            grpc::GenericCallbackServerContext* context)
      : stub_(stub),
        context_(context),
        upstream_(*this),
        observer_(credentials, CriMethod(context->method())) {}

  void OnReadDone(bool ok) override {
    if (!ok) return Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the call has no request"));
    observer_.OnRequest(request_);
    stub_.PrepareBidiStreamingCall(&client_, context_->method(), grpc::StubOptions(), &upstream_);
    upstream_.AddHold();  // reads start only after this side has written the previous message
    upstream_.StartWriteLast(&request_, grpc::WriteOptions());
    upstream_.StartCall();
  }
  void OnWriteDone(bool ok) override {
    if (ok) return upstream_.StartRead(&response_);
    client_.TryCancel();
    upstream_.RemoveHold();
  }
  void OnCancel() override { client_.TryCancel(); }
  void OnDone() override { self_.reset(); }

 private:
  class Upstream : public grpc::ClientBidiReactor<ByteBuffer, ByteBuffer> {
   public:
    explicit Upstream(ProxyCall& call) : call_(call) {}
    // A pull takes minutes, and its request contains a credential.
    void OnWriteDone(bool) override { call_.request_.Clear(); }
    void OnReadInitialMetadataDone(bool ok) override {
      if (!ok) return RemoveHold();
      for (const auto& [name, value] : call_.client_.GetServerInitialMetadata()) {
        if (IsHopByHop(View(name))) continue;
        call_.context_->AddInitialMetadata(std::string(View(name)), std::string(View(value)));
      }
      StartRead(&call_.response_);
    }
    void OnReadDone(bool ok) override {
      if (!ok) return RemoveHold();
      call_.observer_.OnResponse(call_.response_);
      call_.StartWrite(&call_.response_);
    }
    void OnDone(const grpc::Status& status) override {
      for (const auto& [name, value] : call_.client_.GetServerTrailingMetadata()) {
        if (IsHopByHop(View(name))) continue;
        call_.context_->AddTrailingMetadata(std::string(View(name)), std::string(View(value)));
      }
      call_.observer_.OnEnd(status.ok());
      call_.Finish(status);
    }

   private:
    ProxyCall& call_;
  };

  void Begin() {
    if (CriMethod(context_->method()).empty()) {
      return Finish(grpc::Status(grpc::StatusCode::UNIMPLEMENTED,
                                 "imagefs passes on Kubernetes' image and runtime services only"));
    }
    for (const auto& [name, value] : context_->client_metadata()) {
      if (IsHopByHop(View(name))) continue;
      client_.AddMetadata(std::string(View(name)), std::string(View(value)));
    }
    client_.set_deadline(context_->deadline());
    StartRead(&request_);
  }

  grpc::GenericStub& stub_;
  grpc::GenericCallbackServerContext* const context_;
  grpc::ClientContext client_;
  Upstream upstream_;
  ByteBuffer request_, response_;
  Observer observer_;
  std::shared_ptr<ProxyCall> self_;  // until OnDone
};

class CriProxyImpl : public CriProxy {
 public:
  CriProxyImpl(const Options& options, std::shared_ptr<NodeCredentials> credentials)
      : credentials_(std::move(credentials)), service_(*this) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
    arguments.SetMaxSendMessageSize(kMaxMessageBytes);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kMaxReconnectMs);
    // gRPC would derive one from the socket's path, which Go's servers reject.
    arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "localhost");
    stub_ = std::make_unique<grpc::GenericStub>(grpc::CreateCustomChannel(
        StrCat("unix://", options.containerd), grpc::InsecureChannelCredentials(), arguments));
    grpc::ServerBuilder builder;
    grpc::ResourceQuota quota("cri");
    quota.Resize(options.memory_bytes);
    builder.SetResourceQuota(quota);
    builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
    builder.SetMaxSendMessageSize(kMaxMessageBytes);
    builder.RegisterCallbackGenericService(&service_);
    server_ = builder.BuildAndStart();
  }
  ~CriProxyImpl() override {
    if (server_ == nullptr) return;
    server_->Shutdown(gpr_time_from_seconds(kShutdownGraceSeconds, GPR_TIMESPAN));
    server_->Wait();
  }

  grpc::Server* server() override { return server_.get(); }

 private:
  class Service : public grpc::CallbackGenericService {
   public:
    explicit Service(CriProxyImpl& proxy) : proxy_(proxy) {}
    grpc::ServerGenericBidiReactor* CreateReactor(
        grpc::GenericCallbackServerContext* context) override {
      return ProxyCall::Start(*proxy_.stub_, *proxy_.credentials_, context);
    }

   private:
    CriProxyImpl& proxy_;
  };

  const std::shared_ptr<NodeCredentials> credentials_;
  std::unique_ptr<grpc::GenericStub> stub_;
  Service service_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CriProxy>> CriProxy::Start(
    const Options& options, std::shared_ptr<NodeCredentials> credentials) {
  if (!options.containerd.starts_with('/')) {
    return absl::InvalidArgumentError(
        StrCat("containerd's socket ", Printable(options.containerd), " is not an absolute path"));
  }
  auto proxy = std::make_unique<CriProxyImpl>(options, std::move(credentials));
  if (proxy->server() == nullptr) {
    return absl::InternalError("the proxy of the container runtime interface cannot be started");
  }
  return std::unique_ptr<CriProxy>(std::move(proxy));
}

}  // namespace imagefs
