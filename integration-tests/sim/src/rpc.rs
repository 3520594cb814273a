//! Calls that arrive twice or late: a layer in front of all services of a node.
//!
//! A late call is executed also when its caller has given it up, as one that was under way in the network would be. The
//! answer to a second execution goes nowhere.

use crate::{plan::FaultClass, world::World};
use axum::body::to_bytes;
use futures::future::BoxFuture;
use std::{
    convert::Infallible,
    task::{Context, Poll},
    time::Duration,
};
use tonic::{Status, body::Body, codegen::http};
use tower::{Layer, Service};

/// How often a call is one of those, where the class is on.
const CHANCE: f64 = 0.01;
/// How late a call arrives, in milliseconds.
const LATE_MS: std::ops::Range<u64> = 50..4000;
/// How long the answer to a second execution is read.
const DRAIN: Duration = Duration::from_secs(5);

/// The longest body that is kept for a second execution.
const BODY_BYTES_MAX: usize = 8 << 20;

type Request = http::Request<Body>;
type Response = http::Response<Body>;

/// Puts a [`FaultyCalls`] in front of what it is applied to.
#[derive(Clone)]
pub(crate) struct RpcFaults(pub(crate) World);

impl<S> Layer<S> for RpcFaults {
    type Service = FaultyCalls<S>;

    fn layer(&self, inner: S) -> FaultyCalls<S> {
        FaultyCalls {
            inner,
            world: self.0.clone(),
        }
    }
}

/// Services whose calls may come twice or late.
#[derive(Clone)]
pub(crate) struct FaultyCalls<S> {
    inner: S,
    world: World,
}

impl<S> Service<Request> for FaultyCalls<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The clone has not been asked whether it is ready; the one that was takes the call.
        let spare = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, spare);
        let world = self.world.clone();
        let (late, twice) = (
            world.strikes(FaultClass::RpcLate, CHANCE),
            world.strikes(FaultClass::RpcTwice, CHANCE),
        );
        if !late && !twice {
            return Box::pin(inner.call(request));
        }
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let (head, body) = request.into_parts();
            let Ok(body) = to_bytes(axum::body::Body::new(body), BODY_BYTES_MAX).await else {
                return Ok(Status::cancelled("the call was given up").into_http());
            };
            let body = || Body::new(axum::body::Body::from(body.clone()));
            let again = || Request::from_parts(head.clone(), body());
            let (first, second) = (again(), again());
            if twice {
                let (world, mut inner) = (world.clone(), inner.clone());
                let path = path.clone();
                tokio::spawn(async move {
                    world.lag(LATE_MS).await;
                    world.event(format!("{path} arrives once more"));
                    let Ok(response) = inner.call(second).await;
                    let answer = axum::body::Body::new(response.into_body());
                    tokio::time::timeout(DRAIN, to_bytes(answer, BODY_BYTES_MAX))
                        .await
                        .ok();
                });
            }
            let called = tokio::spawn(async move {
                if late {
                    world.lag(LATE_MS).await;
                    world.event(format!("{path} arrives late"));
                }
                inner.call(first).await
            });
            match called.await {
                Ok(response) => response,
                Err(_) => Ok(Status::cancelled("the node stops").into_http()),
            }
        })
    }
}
